"""Runs a command in the guest by its agent, with the streams or the terminal of this process."""

import contextlib
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, Self

from ringlet.cli.consoles import STDERR, STDIN, STDOUT, Console, Told, discard
from ringlet.cli.progress import Progress
from ringlet.cli.signals import held
from ringlet.cli.streams import complain
from ringlet.cli.terminal import Keyboard, RawTerminal, Reader, WindowSize, window_size
from ringlet.control.agent.agent import Agent
from ringlet.control.agent.process import Process
from ringlet.devices.backends.fd_sink import FdSink
from ringlet.errors import AgentError, CommandError, RingletError
from ringlet.machine import outcome
from ringlet.machine.pc import Pc, Wire

_SIGNALLED: Final = 128
_PIECE: Final = 1 << 18


@dataclass(frozen=True, slots=True)
class Task:
    """A command: its words, environment, directory and user, and whether it has a terminal."""

    argv: Sequence[str]
    env: Sequence[tuple[str, str]] = ()
    cwd: str = ""
    user: str = ""
    terminal: bool = False
    reads: bool = True


class Readable(Protocol):
    """An output of the command."""

    def read1(self, size: int, /) -> bytes: ...


class AgentCommand(Console):
    """A command in the guest; `told` has its status once it has ended.

    `connect` gives the agent of the machine that was built last.  What the guest prints on its
    console goes to `log`.
    """

    def __init__(
        self, task: Task, log: Callable[[bytes], None], progress: Progress | None = None
    ) -> None:
        super().__init__(progress)
        self.told = Told()
        self.connect: Callable[[], Agent | None] = lambda: None
        self._task = task
        self._log = log
        self._pc: Pc | None = None
        self._process: Process | None = None
        self._reader: Reader | None = None
        self._agent: Agent | None = None

    def wires(self) -> Sequence[Wire]:
        """Return the connection of COM1."""
        return [Wire(self._log if self._log is discard else self.progress.before(self._log))]

    def attach(self, pc: Pc) -> None:
        """Run the command in `pc` once its agent answers."""
        self._pc = pc
        self._agent = self.connect()
        threading.Thread(target=self._work, name="command", daemon=True).start()

    def __enter__(self) -> Self:
        with self._undone_if_it_fails():
            self.callback(self._stop)
            if self._task.terminal:
                with held():
                    self.enter_context(RawTerminal(STDIN, self._resized))
        return self

    # --- the thread of the command

    def _work(self) -> None:
        assert self._pc is not None
        assert self._agent is not None
        machine = self._pc.machine
        try:
            self._run(self._agent)
            self._agent.shutdown(force=True)
        except AgentError as error:
            if not machine.ended and self.told.status is None:
                machine.fail(error)
        except RingletError as error:
            machine.fail(error)

    def _run(self, agent: Agent) -> None:
        task = self._task
        size = window_size(STDIN) if task.terminal else None
        env = dict(task.env)
        if task.terminal:
            env.setdefault("TERM", os.environ.get("TERM", "vt100"))
        try:
            process = agent.popen(
                list(task.argv), env=env, cwd=task.cwd or None, user=task.user or None,
                tty=task.terminal, size=(size.rows, size.columns) if size else None,
                stdin=task.reads,
            )  # fmt: skip
            process.wait_started()
        except CommandError as error:
            self.progress.end()
            complain(str(error))
            self.told.exit(error.exit_status)
            return
        self.told.init()
        self.progress.end()
        self._process = process
        outputs = [self._copying(process.stdout, STDOUT, "standard output")]
        if process.stderr is not None:
            outputs.append(self._copying(process.stderr, STDERR, "standard error"))
        if process.stdin is not None:
            self._read(process)
        status = process.wait()
        for thread in outputs:
            thread.join()
        self.told.exit(_SIGNALLED - status if status < 0 else status)

    def _read(self, process: Process) -> None:
        stdin = process.stdin
        assert stdin is not None

        def put(data: bytes) -> None:
            with contextlib.suppress(BrokenPipeError, ValueError):  # the command reads no more
                stdin.write(data)

        def end() -> None:
            with contextlib.suppress(BrokenPipeError):
                stdin.close()

        on_data = Keyboard(put, self._quit, self._help) if self._task.terminal else put
        on_end = self._quit if self._task.terminal else end
        self._reader = Reader(STDIN, on_data, on_end, self._fail)
        self._reader.start()

    def _copying(
        self, source: Readable, fd: int, name: str
    ) -> threading.Thread:
        thread = threading.Thread(target=self._copy, args=(source, FdSink(fd, name)), daemon=True)
        thread.start()
        return thread

    def _copy(self, source: Readable, sink: FdSink) -> None:
        try:
            while data := source.read1(_PIECE):
                sink(data)
        except AgentError:
            return  # the machine has ended
        except RingletError as error:
            self._fail(error)

    # --- other threads

    def _resized(self, size: WindowSize) -> None:
        if self._process is not None:
            with contextlib.suppress(RingletError):  # it has ended
                self._process.resize(size.rows, size.columns)

    def _quit(self) -> None:
        if self._pc is not None:
            self._pc.machine.stop(outcome.quit_by_user())

    def _fail(self, error: Exception) -> None:
        if self._pc is not None:
            self._pc.machine.fail(error)

    def _help(self, text: bytes) -> None:
        with contextlib.suppress(OSError):
            os.write(STDOUT, text)

    def _stop(self) -> None:
        if self._reader is not None:
            self._reader.stop()
        if self._agent is not None:
            self._agent.close()
