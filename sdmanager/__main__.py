"""``python -m sdmanager``."""

import sys

from sdmanager.cli import main

sys.exit(main())
