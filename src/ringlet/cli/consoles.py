"""Connects the serial ports of a guest to the host's streams and files."""

import contextlib
import os
import select
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from ringlet.cli.progress import Progress
from ringlet.cli.signals import held
from ringlet.cli.streams import at_once
from ringlet.cli.terminal import (
    Keyboard,
    RawTerminal,
    Reader,
    WindowSize,
    in_foreground,
    raw,
    unbuffered,
    window_size,
)
from ringlet.cli.window import Window
from ringlet.config import CONSOLE
from ringlet.control.agent.agent import Agent
from ringlet.devices.backends.backlog import Backlog
from ringlet.devices.backends.fd_sink import FdSink
from ringlet.devices.uart16550 import Sink
from ringlet.errors import ConfigError, RingletError
from ringlet.images.channel import END_OF_INPUT, StatusPort, frames, size_line
from ringlet.machine import outcome
from ringlet.machine.pc import Wire
from ringlet.machine.wired import Wired

STDIN: Final = 0
STDOUT: Final = 1
STDERR: Final = 2
_FILE: Final = "file:"
_LOGIN: Final = b"login:"
_STTY_S: Final = 10.0


def discard(data: bytes) -> None:
    """Drop `data`: the sink of unwanted output."""


def nothing() -> None:
    """Do nothing."""


class Console(contextlib.ExitStack):
    """The serial connections of a run, during which the machine may be built several times.

    `progress` is shown until the guest prints something for its user.
    """

    def __init__(self, progress: Progress | None = None) -> None:
        super().__init__()
        self.progress = progress or Progress()

    def wires(self) -> Sequence[Wire]:
        """Return the connections of COM1 and the ports after it."""
        raise NotImplementedError

    def attach(self, pc: Wired) -> None:
        """Send input, if there is any, to `pc` from now on."""

    @contextlib.contextmanager
    def _undone_if_it_fails(self) -> Iterator[None]:
        """Close the console if the body, a part of `__enter__`, raises an exception."""
        try:
            yield
        except BaseException:
            self.close()
            raise


class _Feed:
    """Input bytes for one serial port of the current machine."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._pc: Wired | None = None
        self._failure: Exception | None = None
        self._quits = False
        self.backlog = Backlog(self._wake)

    def attach(self, pc: Wired) -> None:
        self._pc = pc
        if self._failure is not None:
            pc.machine.fail(self._failure)
        if self._quits:
            self.quit()

    def fail(self, error: Exception) -> None:
        """End the run, now or when there is one, with what a thread of the console has raised."""
        self._failure = error
        if self._pc is not None:
            self._pc.machine.fail(error)

    def wire(self, sink: Sink) -> Wire:
        return Wire(sink, self.backlog.take, handshake=True)

    def stop(self) -> None:
        self.backlog.close()

    def quit(self) -> None:
        """End the run as the user asked, now or when there is one."""
        self._quits = True
        if self._pc is not None:
            self._pc.machine.stop(outcome.quit_by_user())

    def _wake(self) -> None:
        if self._pc is not None:
            self._pc.machine.post(self._pc.coms[self._port].poll)


class _Input(_Feed):
    """A feed whose bytes come from standard input."""

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self._reader: Reader | None = None

    def start(self, on_data: Callable[[bytes], object], on_end: Callable[[], object]) -> None:
        self._reader = Reader(STDIN, on_data, on_end, self.fail)
        self._reader.start()

    def stop(self) -> None:
        super().stop()
        if self._reader is not None:
            self._reader.stop()


class Quiet(Console):
    """A console that connects COM1 to a sink and gives no input."""

    def __init__(
        self, sink: Callable[[bytes], None] = discard, progress: Progress | None = None
    ) -> None:
        super().__init__(progress)
        self._sink = sink

    def wires(self) -> Sequence[Wire]:
        """Return the connection of COM1."""
        return [Wire(self.progress.before(self._sink))]

    @classmethod
    def to_file(cls, path: Path, progress: Progress | None = None) -> Self:
        """Return a console that writes to a new file.  Raises ConfigError."""
        try:
            file = open(path, "wb", buffering=0, opener=at_once)  # noqa: SIM115 - closed below
        except OSError as error:
            raise ConfigError(
                f"{CONSOLE.flag} {_FILE}{path}: cannot write the file: {error.strerror}"
            ) from error
        console = cls(FdSink(file.fileno(), str(path)), progress)
        console.enter_context(file)
        return console


class _Fed(Console):
    """A console that gives standard input to one serial port."""

    def __init__(self, port: int, progress: Progress | None) -> None:
        super().__init__(progress)
        self._input = _Input(port)

    def attach(self, pc: Wired) -> None:
        """Send input to `pc` from now on."""
        self._input.attach(pc)


class Stdio(_Fed):
    """A console that connects COM1 to standard input and output.

    A terminal on standard input belongs to the guest while it runs.
    """

    _change = staticmethod(raw)

    def __init__(self, progress: Progress | None = None) -> None:
        super().__init__(0, progress)
        self._output = FdSink(STDOUT)

    def wires(self) -> Sequence[Wire]:
        """Return the connection of COM1."""
        return [self._input.wire(self.progress.before(self._output))]

    def __enter__(self) -> Self:
        with self._undone_if_it_fails():
            put = self._input.backlog.put
            self.callback(self._input.stop)
            if os.isatty(STDIN):
                if not self._takes_terminal():
                    return self
                self.callback(self._leave_line)
                with held():
                    self.enter_context(RawTerminal(STDIN, self._resized, self._change))
                self._input.start(Keyboard(put, self._input.quit, self._help), self._input.quit)
            else:
                self._input.start(put, nothing)
        return self

    def _takes_terminal(self) -> bool:
        """Return whether the guest uses the terminal, waiting in the background for its turn."""
        return True

    def _resized(self, size: WindowSize) -> None:
        """Ignore the terminal's new size: a user's own kernel has no channel to receive it."""

    def _leave_line(self) -> None:
        """End the line of the guest's prompt, so that the host's prompt has a line of its own."""
        if self._output.mid_line and os.isatty(STDOUT):
            # A terminal that nobody reads may have no room.
            for fd in select.select([], [STDOUT], [], 0)[1]:
                with contextlib.suppress(OSError):
                    os.write(fd, b"\n")

    def _help(self, text: bytes) -> None:
        self.progress.end()
        with contextlib.suppress(OSError):
            os.write(STDOUT, text)


class Plain(Stdio):
    """The console of a bare program, which may know nothing of terminals.

    Ctrl-C ends the run, and in the background the program runs without input.
    """

    _change = staticmethod(unbuffered)

    def _takes_terminal(self) -> bool:
        return in_foreground(STDIN)


@dataclass(slots=True)
class Told:
    """What the guest's init has reported.

    `init_ns` is the time when init began.  `status` is the exit status of the command or shell,
    once it has ended.
    """

    status: int | None = None
    init_ns: int = 0

    def init(self) -> None:
        """Record that init has begun."""
        self.init_ns = time.monotonic_ns()

    def exit(self, status: int) -> None:
        """Record the exit status of the command or shell that init ran."""
        self.status = status


class Booted(Stdio):
    """The console of a guest that its own init has booted; it tells no status.

    The agent that `connect` gives, that of the machine that was built last, runs stty when the
    window's size is not `size` any more.
    """

    def __init__(self, size: WindowSize, progress: Progress | None = None) -> None:
        super().__init__(progress)
        self.told = Told()
        self.connect: Callable[[], Agent | None] = lambda: None
        self._agent: Agent | None = None
        self._recent = b""
        self._logs_in = False
        self._window = Window(self._send_size, size, self._input.fail)

    def wires(self) -> Sequence[Wire]:
        """Return the connection of COM1."""
        return [self._input.wire(self.progress.before(self._printed))]

    def attach(self, pc: Wired) -> None:
        """Send input and window sizes to `pc` from now on."""
        super().attach(pc)
        self._agent = self.connect()
        self._recent, self._logs_in = b"", False

    def __enter__(self) -> Self:
        with self._undone_if_it_fails():
            self._window.start()
            self.callback(self._window.stop)
            self.callback(self._close_agent)
            super().__enter__()
            # The size may have changed before the signal handler was installed.
            if (size := window_size(STDIN)) is not None:
                self._resized(size)
        return self

    def _printed(self, data: bytes) -> None:
        if not self._logs_in:
            self._watch(data)
        self._output(data)

    def _watch(self, data: bytes) -> None:
        """Send the size once the guest prints, and again once its getty has set the terminal up.

        Other guests have no getty.
        """
        begins, recent = not self._recent, self._recent + data
        self._logs_in = _LOGIN in recent
        self._recent = recent[-len(_LOGIN) :]
        if begins or self._logs_in:
            self._window.guest_listens()

    def _resized(self, size: WindowSize) -> None:
        self._window.changed(size)

    def _send_size(self, size: WindowSize) -> None:
        if self._agent is None:
            return
        rows, columns = str(size.rows), str(size.columns)
        # Without stty, or when the guest ends, the size stays what it is.
        with contextlib.suppress(RingletError):
            self._agent.run(
                ["stty", "-F", "/dev/ttyS0", "rows", rows, "cols", columns], timeout=_STTY_S
            )

    def _close_agent(self) -> None:
        if self._agent is not None:
            self._agent.close()


class ShellStreams(Stdio):
    """A shell on COM1; `told` has its status once it has ended (`ringlet.images.channel`).

    `size` is the terminal size that the guest starts with.
    """

    def __init__(self, size: WindowSize, progress: Progress | None = None) -> None:
        super().__init__(progress)
        self.told = Told()
        self._control = _Feed(port=3)
        self._window = Window(self._send_size, size, self._control.fail)

    def wires(self) -> Sequence[Wire]:
        """Return the connections of all four ports."""
        control = StatusPort(
            on_init=self._init, on_ready=nothing, on_exit=self.told.exit, on_next=nothing
        )
        return [*super().wires(), Wire(discard), Wire(discard), self._control.wire(control)]

    def attach(self, pc: Wired) -> None:
        """Send input and window sizes to `pc` from now on."""
        super().attach(pc)
        self._control.attach(pc)

    def __enter__(self) -> Self:
        with self._undone_if_it_fails():
            self._window.start()
            self.callback(self._window.stop)
            self.callback(self._control.stop)
            super().__enter__()
            # The size may have changed before the signal handler was installed.
            if (size := window_size(STDIN)) is not None:
                self._resized(size)
        return self

    def _resized(self, size: WindowSize) -> None:
        self._window.changed(size)

    def _init(self) -> None:
        self.told.init()
        self._window.guest_listens()

    def _send_size(self, size: WindowSize) -> None:
        self._control.backlog.put(size_line(size.rows, size.columns))


class CommandStreams(_Fed):
    """The streams of a command in the guest, as `ringlet.images.channel` defines them.

    `told` has the command's status once it has ended.
    """

    def __init__(self, log: Callable[[bytes], None], progress: Progress | None = None) -> None:
        super().__init__(1, progress)
        self._log = log
        self.told = Told()
        self._wanted = threading.Semaphore(0)
        """The number of frames that the guest has requested and not yet received."""
        self._over = False
        self.callback(self._input.stop)
        self.callback(self._let_go)

    def wires(self) -> Sequence[Wire]:
        """Return the connections of all four ports."""
        before = self.progress.before
        control = StatusPort(
            on_init=self.told.init,
            on_ready=self._ready,
            on_exit=self._exit,
            on_next=self._wanted.release,
            on_agent=self._run_by_agent,
        )
        return [
            Wire(self._log if self._log is discard else before(self._log)),
            self._input.wire(before(FdSink(STDOUT))),
            Wire(before(FdSink(STDERR, "standard error"))),
            Wire(control),
        ]

    def _exit(self, status: int) -> None:
        self.told.exit(status)

    def _run_by_agent(self) -> None:
        """Run the command by the guest's agent: here there is none."""

    def _ready(self) -> None:
        self.progress.end()
        self._input.start(self._send, lambda: self._put(END_OF_INPUT))

    def _send(self, data: bytes) -> None:
        for frame in frames(data):
            self._put(frame)

    def _put(self, frame: bytes) -> None:
        if not self._over:
            self._wanted.acquire()
        if not self._over:
            self._input.backlog.put(frame)

    def _let_go(self) -> None:
        self._over = True
        self._wanted.release()


def console_for(option: str, progress: Progress | None = None, *, bare: bool = False) -> Console:
    """Return the console that `--console` selects, that of a bare program if it is `bare`.

    Raises ConfigError.
    """
    if option == "stdio":
        return Plain(progress) if bare else Stdio(progress)
    if option == "none":
        return Quiet(progress=progress)
    if option.startswith(_FILE) and option != _FILE:
        return Quiet.to_file(Path(option.removeprefix(_FILE)), progress)
    raise ConfigError(f"{CONSOLE.flag} {option}: give stdio, file:PATH or none")
