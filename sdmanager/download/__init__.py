"""Files from the network: whole and with the digest that was asked for, or not at all.

`download` fetches one file over HTTP(S), goes on where an earlier call was cut off, and publishes the file
under its name only once its SHA-256 is right.
"""

from __future__ import annotations

from ._download import download
from ._types import DownloadProgress, Patience

__all__ = ("DownloadProgress", "Patience", "download")
