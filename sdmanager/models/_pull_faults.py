"""Errors of a pull, out of what its worker says: without addresses, which may be signed, and without the token."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any, Final

from sdmanager.errors import (
    InsufficientResourcesError,
    ModelDownloadError,
    ModelGatedError,
    ModelNotFoundError,
    SDManagerError,
    StorageError,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .catalog import CatalogFile

_HINT_LINE: Final = (
    "Check the connection and run the command again; HTTPS_PROXY names a proxy, HF_ENDPOINT another hub."
)
_HINT_ROOM: Final = "Free some space, or set HF_HOME to a folder on another disk."
_HINT_RIGHTS: Final = (
    "Check who owns the cache of huggingface_hub, or set HF_HOME to a folder that may be written."
)
_HINT_AGAIN: Final = (
    "That file was not kept. Run the command again; if HF_ENDPOINT is set, ask the owner of that hub."
)
_HINT_TOKEN: Final = "Set HF_TOKEN to a valid token, or run 'hf auth login'."  # noqa: S105 - words, no secret

_NETWORK: Final[Mapping[str, tuple[str, str]]] = {
    "offline": (
        "huggingface_hub is in its offline mode, and the file is not in its cache",
        "Unset HF_HUB_OFFLINE to fetch it.",
    ),
    "no_hub": (
        "what answered is no hub",
        "If HF_ENDPOINT is set, check the address; else check the proxy, and whether the network asks for a login.",
    ),
    "address": (
        "the address of the hub, or of the proxy, is not valid",
        "Check HF_ENDPOINT and HTTPS_PROXY.",
    ),
    "proxy": ("the proxy cannot be reached, or refuses", "Check HTTPS_PROXY and ALL_PROXY."),
    "certificate": (
        "the certificate of the hub is not trusted",
        "Check the clock, and the proxy if it opens TLS connections; SSL_CERT_FILE names authorities to trust.",
    ),
    "no_such_host": ("the name of the hub, or of the proxy, cannot be resolved", _HINT_LINE),
    "unreachable": ("no connection to the hub could be made", _HINT_LINE),
    "stalled": ("the hub sends nothing any more", _HINT_LINE),
    "cut": ("the connection was cut, again and again", _HINT_LINE),
    "size": ("what came has not the size that the hub names", _HINT_AGAIN),
    "digest": ("what came is not the file that was asked for, as its SHA-256 is another", _HINT_AGAIN),
    "disabled": ("its publisher, or the hub, has disabled it", "Use another model."),
}


def fault_of(facts: Mapping[str, Any], file: CatalogFile | None, name: str, *, gated: bool) -> SDManagerError:
    """The error for what the worker says.

    Args:
        facts: Its kind, and what else there is: see ``_hub_faults``.
        file: Which it happened to; None: no one in particular.
        name: Of the model.
        gated: Whether the catalogue says that the files are given only to those who agreed to terms.
    """
    kind, status = facts["kind"], facts.get("status")
    details = {
        key: value for key, value in facts.items() if key not in {"event", "file"} and value is not None
    }
    details |= {"name": name} | ({"repo": file.repo, "file": file.path} if file is not None else {})
    what = f"{file.path!r} of {file.repo}" if file is not None else f"The model {name!r}"
    no_token = not facts.get("has_token")
    if kind == "gated" or (gated and no_token and (kind == "repository" or status in {401, 403})):
        return _gated(file, name, details, no_token=no_token)
    if kind == "status" and status == 401 and no_token:
        return ModelGatedError(f"{what} could not be fetched: the hub wants a token, and there is none.",
                               hint=_HINT_TOKEN, details=details)  # fmt: skip
    if kind == "token_file":
        return StorageError(
            f"The token of 'hf auth login' cannot be read: {facts['reason']}.",
            hint="Check the rights of its file, or run 'hf auth login' again; HF_TOKEN goes before it.",
            details=details,
        )
    if kind == "library":
        return _of_library(what, facts, details)
    if kind == "token" or (kind == "status" and status == 401):
        return ModelGatedError(f"{what} could not be fetched: the hub does not accept the token.",
                               hint=_HINT_TOKEN, details=details)  # fmt: skip
    if kind in {"repository", "revision", "entry", "name"}:
        return _not_found(kind, file, name, details, no_token=no_token)
    if kind == "full":
        return InsufficientResourcesError(
            f"{what} could not be fetched: the disk is full.", hint=_HINT_ROOM, details=details
        )
    if kind == "storage" and facts["errno"] == errno.ENOENT:
        return gone_meanwhile(file, name)
    if kind == "storage":
        return StorageError(
            f"{what} could not be written to the cache of huggingface_hub: {facts['reason']}.",
            hint=_HINT_RIGHTS,
            details=details,
        )
    why, hint = _NETWORK.get(kind) or _refusal(status)
    return ModelDownloadError(f"{what} could not be fetched: {why}.", hint=hint, details=details)


def replaced(file: CatalogFile, name: str, details: Mapping[str, object]) -> ModelDownloadError:
    """The error for a file of which the hub has another one than the catalogue names."""
    return ModelDownloadError(
        f"{file.path!r} of {file.repo} was replaced by its publisher: it is not the file that the catalogue names.",
        hint="Nothing was fetched. Use another option of the model, or a newer sdmanager.",
        details={"kind": "replaced", "name": name, "repo": file.repo, "file": file.path, **details},
    )


def gone_meanwhile(file: CatalogFile | None, name: str) -> StorageError:
    """The error for a file of the cache that was there a moment ago."""
    what = (
        f"The file {file.path!r} of the model {name!r}"
        if file is not None
        else f"A file of the model {name!r}"
    )
    return StorageError(
        f"{what} was removed meanwhile from the cache of huggingface_hub.",
        hint="Pull it again.",
        details={"name": name} | ({"repo": file.repo, "file": file.path} if file is not None else {}),
    )


def no_room(name: str, needed: int, spare: int, free: int, cache: str) -> InsufficientResourcesError:
    """The error for a disk that is too small."""
    return InsufficientResourcesError(
        f"The model {name!r} needs {size_text(needed)} on the disk of huggingface_hub's cache, "
        f"and {size_text(spare)} to spare; {size_text(free)} is free.",
        hint=_HINT_ROOM,
        details={"name": name, "needed_bytes": needed + spare, "free_bytes": free, "path": cache},
    )


def size_text(size: int) -> str:
    """Bytes as people read them."""
    if size >= 1e9:
        return f"{size / 1e9:.1f} GB"
    return f"{size / 1e6:.0f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"


def _of_library(what: str, facts: Mapping[str, Any], details: Mapping[str, object]) -> ModelDownloadError:
    variable = facts.get("variable")
    if variable is not None:
        why, hint = f"the value of {variable} is not valid", f"Correct {variable}, or unset it."
    else:
        why = f"huggingface_hub cannot be imported ({facts['cause']})"
        hint = "Check the installation: 'pip install --force-reinstall huggingface_hub'."
    return ModelDownloadError(f"{what} could not be fetched: {why}.", hint=hint, details=details)


def _gated(
    file: CatalogFile | None, name: str, details: Mapping[str, object], *, no_token: bool
) -> ModelGatedError:
    repo = file.repo if file is not None else name
    why = "and there is no token to show" if no_token else "and the owner of this token has not"
    return ModelGatedError(
        f"{repo} gives its files only to those who have agreed to its terms, {why}.",
        hint=f"Agree on the page of {repo}, then set HF_TOKEN or run 'hf auth login'.",
        details=details,
    )


def _not_found(
    kind: str, file: CatalogFile | None, name: str, details: Mapping[str, object], *, no_token: bool
) -> ModelNotFoundError:
    repo, path = (file.repo, file.path) if file is not None else (name, "")
    if kind == "name":
        message = f"{repo[:100]!r} cannot be the name of a repository."
    elif kind == "repository":
        message = f"The hub has no repository {repo}, or it is private."
    elif kind == "revision":
        message = f"The repository {repo} has no revision {file.revision if file else None!r}."
    else:
        message = f"The repository {repo} has no file {path!r}."
    hint = "Compare the name with the page of the repository; upper and lower case matter."
    if kind == "repository" and no_token:
        hint = "Check the name; if the repository is private, set HF_TOKEN or run 'hf auth login'."
    return ModelNotFoundError(message, hint=hint, details=details)


def _refusal(status: int | None) -> tuple[str, str]:
    if status == 429:
        return (
            "the hub has had too many requests (status 429)",
            "Wait some minutes; with HF_TOKEN set it takes more.",
        )
    if status == 403:
        return "the hub refuses access (status 403)", "Check the rights of the token, or ask the publisher."
    if status is not None and status >= 500:
        return f"the hub has a fault (status {status})", "Try again later."
    if status is not None:
        return f"the hub refuses the request (status {status})", _HINT_LINE
    return "the transfer failed", _HINT_LINE
