"""``Client``."""

from __future__ import annotations


class Client:
    """A server of another process, spoken to over HTTP. Each call waits for its answer.

    Args:
        base_url: As the server prints it, such as ``http://127.0.0.1:8081``.
        token: What the server wants to be shown, or None.
    """

    def __init__(self, base_url: str, *, token: str | None = None) -> None:
        self._base_url = base_url
        self._token = token
