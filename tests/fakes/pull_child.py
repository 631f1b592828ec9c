"""A process that pulls a model: `DATA CACHE STATE REPO ROLE=PATH…`; it prints what was written down.

With FROZEN set it is an application without an interpreter.
"""

import asyncio
import json
import os
import sys
from pathlib import Path

from sdmanager.models import CatalogFile, Family, ModelDefaults, Role
from sdmanager.models.pull import pull_files
from sdmanager.settings import Settings

if os.environ.get("FROZEN"):
    sys.frozen = True
data, cache, state, repo, *parts = sys.argv[1:]
files = [CatalogFile(Role(role), repo, path) for role, path in (part.split("=") for part in parts)]
settings = Settings(Path(data), Path(cache), Path(state))
model = asyncio.run(
    pull_files("whole", files, settings, defaults=ModelDefaults(steps=9), family=Family.Z_IMAGE)
)
print(json.dumps(model.to_json()))
