from __future__ import annotations

import os
import socket
import sys
import threading

# The guard leads the child's session and group, passes its exit code on, and kills the group once its stdin
# ends. That is a socket whose other end only this process holds, so it ends when we do, killed or not.
# A shell costs 1 ms a run where an interpreter costs 20, and a frozen application may have no interpreter.
# Neither of the usual ways serves: PR_SET_PDEATHSIG is bound to the thread that forks, so the child dies when
# that thread ends, and preexec_fn may deadlock in a process with threads.
#
# line 1: The lifeline moves to 3; the child's stdin is empty.
# line 2: The child is forked while SIGTERM has its default action, so that no stop can be lost: before the
#         fork it ends the guard, and with that the group; after it, it reaches the child. (A trap here would
#         lose those that arrive during the fork.) A shell starts such a child with SIGINT and SIGQUIT
#         ignored; nobody sends these to a group without a terminal.
# line 3: From here on a polite stop of the group is for the child; the watcher inherits this.
# line 4: Only the child and its own children hold the output; and the shell has nothing to say there.
# line 6: The watcher. `read` returns when the lifeline ends. It works without the guard, if that is killed.
# line 7: Now only the watcher holds the lifeline: the other end tells when somebody has killed it.
# line 9: Reaped here: this process may be the one that inherits orphans, and would not expect any.
_GUARD = """\
exec 3<&0 </dev/null
"$@" 3<&- &
trap '' TERM HUP INT
exec >/dev/null 2>&1
child=$!
( read -r _ <&3; kill -KILL 0 ) &
exec 3<&-
wait "$child"; code=$?
kill -KILL $!; wait $!
exit "$code"
"""
GUARD_COMMAND = ("/bin/sh", "-c", _GUARD, "sdmanager-guard")

# A process that the host forks (multiprocessing) inherits the lifelines and would hold them open for life.
# The lock closes the gap between creating one and noting it down.
_lifelines: set[socket.socket] = set()
_fork_lock = threading.RLock()


def _close_inherited_lifelines() -> None:
    for lifeline in _lifelines:
        lifeline.close()
    _lifelines.clear()
    _fork_lock.release()


if sys.platform != "win32":  # for the type checker
    os.register_at_fork(
        before=_fork_lock.acquire,
        after_in_parent=_fork_lock.release,
        after_in_child=_close_inherited_lifelines,
    )


def create_lifeline() -> tuple[socket.socket, socket.socket]:
    """Return our end of a new lifeline and the guard's."""
    # A socket pair rather than a pipe: every system's event loop tells our end when the other one closes.
    with _fork_lock:
        ours, theirs = socket.socketpair()
        _lifelines.add(ours)
    return ours, theirs


def close_lifeline(lifeline: socket.socket) -> None:
    """Close our end; the guard's watcher kills the group, if there still is one."""
    with _fork_lock:
        _lifelines.discard(lifeline)
        lifeline.close()


# A shell reports the death of its child by signal n as exit code 128 + n. These are the signals that end a
# process by default on every POSIX system; an exit code of its own above 128 cannot be told from them.
_FATAL = frozenset({*range(1, 16), *range(24, 28), 30, 31})


def exit_code_and_signal(code: int) -> tuple[int | None, int | None]:
    """Split what a guard passed on; negative codes are signals, as in `subprocess`."""
    if code < 0:
        return None, -code
    if code - 128 in _FATAL:
        return None, code - 128
    return code, None
