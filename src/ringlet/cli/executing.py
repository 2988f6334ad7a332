"""`ringlet exec` and `ringlet shell`: a command in the guest of a machine that runs elsewhere."""

import contextlib
import os
import threading
from collections.abc import Sequence
from queue import SimpleQueue
from typing import Final

from ringlet.cli.commands import Pump, Task
from ringlet.cli.consoles import STDIN
from ringlet.cli.signals import held
from ringlet.cli.terminal import RawTerminal
from ringlet.control.agent.agent import Agent
from ringlet.control.background.client import attach
from ringlet.errors import ConfigError

LEFT: Final = 129
"""The exit status after Ctrl-A x: the command gets SIGHUP."""
SHELL: Final = ("/bin/sh", "-c", 'exec "${SHELL:-/bin/sh}" -l')

_KEYS: Final = (
    b"\r\n"
    b"Ctrl-A x       leave the command, which gets SIGHUP\r\n"
    b"Ctrl-A h       this list\r\n"
    b"Ctrl-A Ctrl-A  send Ctrl-A to the guest\r\n"
)


def run_exec(
    name: str,
    command: Sequence[str],
    *,
    env: Sequence[tuple[str, str]] = (),
    cwd: str = "",
    user: str = "",
    terminal: bool = False,
    reads: bool = False,
) -> int:
    """Run a command in the guest with this process's streams and return its exit status.

    Raises ConfigError, AgentError, CommandError and GuestEnded.
    """
    if terminal and not os.isatty(STDIN):
        raise ConfigError("-t: standard input is not a terminal; leave out -t")
    machine = attach(name)
    found = machine.look()
    task = Task(
        command, (*found.env, *env), cwd or found.cwd, user or found.user, terminal=terminal,
        reads=reads or terminal, or_home=bool(user and not cwd),
    )  # fmt: skip
    with machine.told_of_the_end(), machine.agent() as agent:
        return _Execution(agent, task).wait()


class _Execution:
    """One command, in a thread; the main thread waits for it, and for signals."""

    def __init__(self, agent: Agent, task: Task) -> None:
        self._agent = agent
        self._task = task
        # A signal does not end a wait for an event, and a signal handler may use no other queue.
        self._news: SimpleQueue[int | Exception] = SimpleQueue()
        self._pump = Pump(
            task, started=lambda: None, leave=lambda: self._news.put(LEFT), fail=self._news.put,
            keys=_KEYS,
        )  # fmt: skip

    def wait(self) -> int:
        """Run it, and return its exit status.  Raises what it raises."""
        with contextlib.ExitStack() as stack:
            stack.callback(self._pump.stop)
            if self._task.terminal:
                with held():
                    stack.enter_context(RawTerminal(STDIN, self._pump.resized))
            threading.Thread(target=self._work, name="command", daemon=True).start()
            result = self._news.get()
        if isinstance(result, Exception):
            raise result
        return result

    def _work(self) -> None:
        try:
            self._news.put(self._pump.run(self._agent))
        except Exception as error:  # noqa: BLE001 - the main thread raises it
            self._news.put(error)
