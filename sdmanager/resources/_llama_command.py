"""How a llama-server is started: the user's arguments, and what we must know of them. Pure."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sdmanager.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_DEFAULT_HOST: Final = "127.0.0.1"
_PORT_MAX: Final = 65535
# Addresses to listen on that nobody can call, and where this machine reaches them.
_WILDCARDS: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - recognised, not bound
_REFUSED: Final = {
    "--api-key": (
        "may not be in the command: every program on this machine can read it there",
        'Give it apart: api_key= in Python, api_key_env = "NAME" in a file.',
    ),
    "--ssl-key-file": ("is not supported: it is asked over HTTP", "Leave it out, or use hooks instead."),
}
# What the program takes from its environment where its arguments do not say it.
PREFIX_VARIABLE: Final = "LLAMA_ARG_API_PREFIX"
_SSL_VARIABLE: Final = "LLAMA_ARG_SSL_KEY_FILE"


@dataclass(frozen=True, slots=True)
class LlamaCommand:
    """A command as the user gave it, apart from where it listens.

    Attributes:
        argv: The program and its arguments, without ``--host`` and ``--port``.
        host: Where it listens.
        port: Likewise; None: any that is free.
        prefix: Of all its paths, ``""`` as a rule.
        locked: Whether it keeps the file of the model in RAM.
    """

    argv: tuple[str, ...]
    host: str
    port: int | None
    prefix: str
    locked: bool

    @property
    def digest(self) -> str:
        """By which the same arguments are known again."""
        return hashlib.sha256("\0".join(self.argv).encode("utf-8", "surrogateescape")).hexdigest()

    @property
    def reached_at(self) -> str:
        """The host under which this machine reaches it."""
        return _WILDCARDS.get(self.host, self.host)

    def url(self, port: int) -> str:
        """Where clients find it, without a slash at the end."""
        host = self.reached_at
        return f"http://{f'[{host}]' if ':' in host else host}:{port}{self.prefix}"

    def listening_on(self, port: int) -> list[str]:
        """The whole argument list."""
        return [*self.argv, "--host", self.host, "--port", str(port)]


def read_command(
    command: Sequence[str | os.PathLike[str]], host: str | None, port: int | None, env: Mapping[str, str]
) -> LlamaCommand:
    """Read a command.

    Args:
        command: The program and its arguments; ``--host`` and ``--port`` may be among them.
        host: Where it is to listen; None: what the command says, else 127.0.0.1.
        port: Likewise; None: what the command says, else any that is free.
        env: The environment that it will have.

    Raises:
        InvalidRequestError: It is empty, says something else than the other arguments, holds a key, or is to be asked
            over TLS.
    """
    if isinstance(command, str | bytes | os.PathLike) or not command:
        raise InvalidRequestError(
            "The command of a llama-server must be a list: the program and its arguments.",
            hint='Such as ["llama-server", "-m", "model.gguf"].',
        )
    argv = [os.fsdecode(part) for part in command]
    if any("\0" in part for part in argv):
        raise InvalidRequestError("The command of a llama-server holds a NUL character.")
    for option, (fault, hint) in _REFUSED.items():
        if any(part == option or part.startswith(f"{option}=") for part in argv):
            raise InvalidRequestError(f"{option} {fault}.", hint=hint)
    if env.get(_SSL_VARIABLE):
        raise InvalidRequestError(
            f"{_SSL_VARIABLE} is set, and a llama-server with it is not supported: it is asked over HTTP.",
            hint="Unset it for this program, or use hooks instead.",
        )
    said_host, said_port = _take_out(argv, "--host"), _take_out(argv, "--port")
    own_port = _port_of(said_port) if said_port is not None else None
    if host is not None and said_host is not None and host != said_host:
        raise InvalidRequestError(f"The command of a llama-server says --host {said_host}, not {host}.")
    if port is not None and own_port is not None and port != own_port:
        raise InvalidRequestError(f"The command of a llama-server says --port {own_port}, not {port}.")
    if port is not None:
        _port_of(str(port))
    return LlamaCommand(
        tuple(argv),
        _checked_host(host or said_host or _DEFAULT_HOST),
        port if port is not None else own_port,
        _prefix_of(argv, env),
        "--mlock" in argv,
    )


def _take_out(argv: list[str], option: str) -> str | None:
    """Remove an option with its value; the last one counts, as it does for the program."""
    value = None
    while option in argv[1:]:
        at = argv.index(option, 1)
        if at + 1 == len(argv):
            raise InvalidRequestError(f"The command of a llama-server ends with {option}, without a value.")
        value = argv[at + 1]
        del argv[at : at + 2]
    return value


def _port_of(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and 1 <= int(text[:6]) <= _PORT_MAX):
        raise InvalidRequestError(
            "The port of a llama-server must be a number from 1 to 65535.",
            hint="Leave it out: a free one is taken.",
        )
    return int(text)


def _checked_host(host: str) -> str:
    if host.endswith(".sock") or any(character in host for character in ",/ \t\n"):
        raise InvalidRequestError(
            "The host of a llama-server must be one name or address.", hint="Use 127.0.0.1."
        )
    return host


def _prefix_of(argv: list[str], env: Mapping[str, str]) -> str:
    given = argv[argv.index("--api-prefix") + 1 :][:1] if "--api-prefix" in argv else []
    return given[0] if given else env.get(PREFIX_VARIABLE, "")
