"""``sdmanager aside``: what is put aside, and forgetting what nobody is left to bring back."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from .options import settings_of
from .output import counted, note, printable, say

if TYPE_CHECKING:
    import argparse
    from collections.abc import Collection, Iterable

    from sdmanager.resources import SavedState
    from sdmanager.settings import Settings

OLLAMA: Final = "ollama"
LLAMA_SWAP: Final = "llama-swap"
_FORGET: Final = "sdmanager aside --forget"


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "aside",
        help="show what is put aside",
        description="Shows what was put aside for pictures (--offload of serve and generate) and is not back. A "
        "command that runs brings back what it has put aside; what one left that was killed, the next with the same "
        "--offload does.",
        epilog="Example:  sdmanager aside --forget",
    )
    parser.add_argument(
        "--forget", action="store_true",
        help="forget what nobody is left to bring back; nothing of it is loaded again",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")
    parser.set_defaults(run=_aside)


async def _aside(args: argparse.Namespace) -> int:
    from sdmanager.threads import in_thread

    settings = settings_of({})
    forgotten = await _forget(settings) if args.forget else []
    states = await in_thread(aside_now, settings)
    if args.json:
        facts: dict[str, object] = {"aside": [facts_of(state) for state in states]}
        say(json.dumps(facts | {"forgotten": forgotten} if args.forget else facts))
        return 0
    if args.forget:
        say(f"Forgotten: {', '.join(forgotten)}." if forgotten else "There is nothing to forget.")
    for state in states:
        say(described(facts_of(state)))
        if state.error:
            say(f"  {state.error}")
    if any(is_left_over(state) for state in states):
        say(f"To forget what nobody is left to bring back: {_FORGET}")
    elif not (states or args.forget):
        say("Nothing is put aside.")
    return 0


async def _forget(settings: Settings) -> list[str]:
    """Forget what nobody is left to bring back; the names of all that."""
    from sdmanager.resources import ResourceOrchestrator
    from sdmanager.threads import in_thread

    room = ResourceOrchestrator(settings)
    before = await in_thread(room.saved_state)
    await room.clear_saved_state()
    return list(dict.fromkeys(state.name for state in before if is_left_over(state)))


def aside_now(settings: Settings) -> tuple[SavedState, ...]:
    """What is aside, by whichever process, the oldest first; blocking."""
    from sdmanager.resources import ResourceOrchestrator

    return ResourceOrchestrator(settings).saved_state()


def is_left_over(state: SavedState) -> bool:
    """Whether nobody runs who would bring it back; of another process that runs, no error is known."""
    return not state.is_ours and state.error is not None


def facts_of(state: SavedState) -> dict[str, Any]:
    """Plain values, as all our JSON has them."""
    return {
        "name": state.name,
        "what": state.what,
        "since": datetime.fromtimestamp(state.since, UTC).isoformat(timespec="seconds"),
        "attempts": state.attempts,
        "error": state.error,
        "leftOver": is_left_over(state),
    }


def described(facts: dict[str, Any]) -> str:
    """The same in one line."""
    what = f" ({printable(facts['what'])})" if facts["what"] else ""
    owner = "by an earlier run, which is gone" if facts["leftOver"] else "by a process that is running"
    tried = f", {counted(facts['attempts'], 'attempt')} to bring it back" if facts["attempts"] else ""
    when = facts["since"][:16].replace("T", " ")
    return f"{printable(facts['name'])}{what}: since {when} UTC, {owner}{tried}"


def tell_left_over(states: Iterable[SavedState], known: Collection[str]) -> None:
    """Warn of what this command does not bring back, though nobody else does.

    Args:
        states: What is aside.
        known: Names of what this command may bring back.
    """
    for name in dict.fromkeys(each.name for each in states if is_left_over(each) and each.name not in known):
        note(
            f"{name} was put aside by an earlier run and is not back: add {_option_for(name)}, "
            f"or forget it with '{_FORGET}'."
        )


def _option_for(name: str) -> str:
    """What brings it back, as far as its name tells."""
    kind, _, place = name.partition(" at ")
    if name == OLLAMA:
        return f"--offload {OLLAMA}"
    if kind in (OLLAMA, LLAMA_SWAP):
        return f"--offload {kind}={f'http://{place}' if place else 'URL'}"
    return "the --offload that names it"
