"""Runs a command in the guest by its agent, with the streams or the terminal of this process."""

import contextlib
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Final, Protocol, Self

from ringlet.cli.consoles import (
    STDERR,
    STDIN,
    STDOUT,
    CommandStreams,
    Console,
    Told,
    discard,
)
from ringlet.cli.progress import Progress
from ringlet.cli.signals import held
from ringlet.cli.streams import complain
from ringlet.cli.terminal import HELP, Keyboard, RawTerminal, Reader, WindowSize, window_size
from ringlet.control.agent.agent import Agent
from ringlet.control.agent.process import InputFile, Process, Text, else_at_home
from ringlet.devices.backends.fd_sink import FdSink
from ringlet.devices.uart16550 import Sink
from ringlet.errors import AgentError, CommandError, RingletError, unexpected
from ringlet.machine import outcome
from ringlet.machine.pc import Wire
from ringlet.machine.wired import Wired

_SIGNALLED: Final = 128
_PIECE: Final = 1 << 18


@dataclass(frozen=True, slots=True)
class Task:
    """A command: its words, environment, directory and user, and whether it has a terminal.

    With `or_home`, it is at its user's home if it cannot enter the directory.
    """

    argv: Sequence[str]
    env: Sequence[tuple[str, str]] = ()
    cwd: str = ""
    user: str = ""
    terminal: bool = False
    reads: bool = True
    or_home: bool = False


class Readable(Protocol):
    """An output of the command."""

    def read1(self, size: int, /) -> bytes: ...


class _Copier:
    """A thread that copies an output, once there is one, to `sink`."""

    def __init__(self, sink: Sink, fail: Callable[[Exception], object]) -> None:
        self._sink = sink
        self._fail = fail
        self._sources: SimpleQueue[Readable | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def copy(self, source: Readable) -> None:
        """Copy the whole of `source`."""
        self._sources.put(source)

    def close(self) -> None:
        """Wait for the end of that."""
        self._sources.put(None)
        self._thread.join()

    def _work(self) -> None:
        try:
            while (source := self._sources.get()) is not None:
                while data := source.read1(_PIECE):
                    self._sink(data)
        except AgentError:
            return  # the machine has ended
        except RingletError as error:
            self._fail(error)


class Pump:
    """Runs a command by an agent, with the streams or the terminal of this process.

    It needs some threads.  `prepare` starts them, before a guest's programs take what the host
    allows; else `run` does.  `sinks` take its outputs.  `started` is called once it runs, `leave`
    when the user wants no more of it, and `fail` with an exception of a thread.
    """

    def __init__(
        self,
        task: Task,
        *,
        started: Callable[[], object],
        leave: Callable[[], object],
        fail: Callable[[Exception], object],
        sinks: tuple[Sink, Sink] | None = None,
        keys: bytes = HELP,
    ) -> None:
        self._task = task
        self._started = started
        self._leave = leave
        self._fail = fail
        self._sinks = sinks or (FdSink(STDOUT), FdSink(STDERR, "standard error"))
        self._keys = keys
        self._process: Process | None = None
        self._began = threading.Event()
        self._reader: Reader | None = None
        self._copiers: list[_Copier] = []

    def prepare(self) -> None:
        """Start the threads."""
        sinks = self._sinks[:1] if self._task.terminal else self._sinks
        self._copiers = [_Copier(sink, self._fail) for sink in sinks]
        if self._task.reads:
            self._read()

    def run(self, agent: Agent) -> int:
        """Run the command to its end and return the exit status, as a shell has it.

        Raises CommandError if it cannot be started, and AgentError.
        """
        if not self._copiers:
            self.prepare()
        task = self._task
        size = window_size(STDIN) if task.terminal else None
        env = dict(task.env)
        if task.terminal:
            env.setdefault("TERM", os.environ.get("TERM", "vt100"))

        def start(cwd: Text | None) -> Process:
            return agent.popen(
                list(task.argv), env=env, cwd=cwd, user=task.user or None, tty=task.terminal,
                size=(size.rows, size.columns) if size else None, stdin=task.reads,
            )  # fmt: skip

        directory = task.cwd or None
        process = else_at_home(start, directory) if task.or_home else start(directory)
        self._started()
        self._process = process
        self._began.set()
        outputs = (process.stdout, process.stderr)
        for copier, output in zip(self._copiers, outputs, strict=False):
            if output is not None:
                copier.copy(output)
        status = process.wait()
        for copier in self._copiers:
            copier.close()
        return _SIGNALLED - status if status < 0 else status

    def stop(self) -> None:
        """Read no more input."""
        self._began.set()
        if self._reader is not None:
            self._reader.stop()

    def resized(self, size: WindowSize) -> None:
        """Tell the command the terminal's new size."""
        if self._process is not None:
            with contextlib.suppress(RingletError):  # it has ended
                self._process.resize(size.rows, size.columns)

    def _read(self) -> None:
        def put(data: bytes) -> None:
            stdin = self._input()
            if stdin is not None:
                with contextlib.suppress(BrokenPipeError, ValueError):  # it reads no more
                    stdin.write(data)

        def end() -> None:
            stdin = self._input()
            if stdin is not None:
                with contextlib.suppress(BrokenPipeError):
                    stdin.close()

        on_data = Keyboard(put, self._leave, self._help) if self._task.terminal else put
        on_end = self._leave if self._task.terminal else end
        self._reader = Reader(STDIN, on_data, on_end, self._fail)
        self._reader.start()

    def _input(self) -> InputFile | None:
        """Return the command's input once it has begun; None if it does not."""
        self._began.wait()
        return self._process.stdin if self._process is not None else None

    def _help(self, text: bytes) -> None:
        with contextlib.suppress(OSError):
            os.write(STDOUT, self._keys)


class AgentCommand(Console):
    """A command in the guest; `told` has its status once it has ended.

    `connect` gives the agent of the machine that was built last.  What the guest prints on its
    console goes to `log`.  `sinks` take the command's outputs instead of this process's streams.
    Unless `at_once`, it waits for `begin`.
    """

    def __init__(
        self,
        task: Task,
        log: Callable[[bytes], None],
        progress: Progress | None = None,
        sinks: tuple[Sink, Sink] | None = None,
        *,
        at_once: bool = True,
    ) -> None:
        super().__init__(progress)
        self.told = Told()
        self._at_once = at_once
        self.connect: Callable[[], Agent | None] = lambda: None
        self._task = task
        self._log = log
        self._pc: Wired | None = None
        self._agent: Agent | None = None
        self._pump = Pump(
            task, started=self._started, leave=self._quit, fail=self._fail, sinks=sinks
        )

    def wires(self) -> Sequence[Wire]:
        """Return the connection of COM1."""
        return [Wire(self._log if self._log is discard else self.progress.before(self._log))]

    def attach(self, pc: Wired) -> None:
        """Run the command in `pc` once its agent answers."""
        self._pc = pc
        self._agent = self.connect()
        if self._at_once:
            self.begin()

    def begin(self) -> None:
        """Run the command once the agent of the machine answers."""
        self._pump.prepare()
        threading.Thread(target=self._work, name="command", daemon=True).start()

    def __enter__(self) -> Self:
        with self._undone_if_it_fails():
            self.callback(self._stop)
            if self._task.terminal:
                with held():
                    self.enter_context(RawTerminal(STDIN, self._pump.resized))
        return self

    def refused(self, error: CommandError) -> None:
        """Tell the user that the command cannot be started."""
        self.progress.end()
        complain(str(error))

    # --- the thread of the command

    def _work(self) -> None:
        assert self._pc is not None
        assert self._agent is not None
        machine = self._pc.machine
        try:
            try:
                self.told.exit(self._pump.run(self._agent))
            except CommandError as error:
                self.refused(error)
                self.told.exit(error.exit_status)
            self._agent.shutdown(force=True)
        except AgentError as error:
            if not machine.ended and self.told.status is None:
                machine.fail(error)
        except Exception as error:  # noqa: BLE001 - the machine's thread raises it
            machine.fail(unexpected(error))

    def _started(self) -> None:
        self.told.init()
        self.progress.end()

    # --- other threads

    def _quit(self) -> None:
        if self._pc is not None:
            self._pc.machine.stop(outcome.quit_by_user())

    def _fail(self, error: Exception) -> None:
        if self._pc is not None:
            self._pc.machine.fail(error)

    def _stop(self) -> None:
        self._pump.stop()
        if self._agent is not None:
            self._agent.close()


class EitherCommand(CommandStreams):
    """A command on a kernel of the user's own.

    It runs by the agent if that kernel has the driver of the agent's port, else by serial ports:
    the guest says "agent" or "ready".  `connect` gives the agent of the last machine.
    """

    def __init__(
        self, task: Task, log: Callable[[bytes], None], progress: Progress | None = None
    ) -> None:
        super().__init__(log, progress)
        self._by_agent = AgentCommand(task, discard, progress, at_once=False)
        self._by_agent.told = self.told
        self._agent_runs = False

    @property
    def connect(self) -> Callable[[], Agent | None]:
        """What gives the agent of the machine that was built last."""
        return self._by_agent.connect

    @connect.setter
    def connect(self, function: Callable[[], Agent | None]) -> None:
        self._by_agent.connect = function

    def attach(self, pc: Wired) -> None:
        """Run the command in `pc` once the guest says how."""
        super().attach(pc)
        self._by_agent.attach(pc)

    def __enter__(self) -> Self:
        with self._undone_if_it_fails():
            self.enter_context(self._by_agent)
        return self

    def _run_by_agent(self) -> None:
        if self.told.status is not None:
            return  # the command has ended
        self._agent_runs = True
        self._by_agent.begin()

    def _exit(self, status: int) -> None:
        # The status of an agent that has ended early is not the command's.
        if not self._agent_runs:
            super()._exit(status)
