"""What the serial ports of a guest are connected to."""

import contextlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Self

from ringlet.cli.terminal import Keyboard, RawTerminal, Reader
from ringlet.config import CONSOLE
from ringlet.devices.backends.backlog import Backlog
from ringlet.devices.backends.fd_sink import FdSink
from ringlet.errors import ConfigError
from ringlet.images.channel import END_OF_INPUT, StatusPort, frames
from ringlet.machine import outcome
from ringlet.machine.pc import Pc, Wire

STDIN: Final = 0
STDOUT: Final = 1
STDERR: Final = 2
_FILE: Final = "file:"


def discard(data: bytes) -> None:
    """Be the sink of what nobody wants to see."""


class Console(contextlib.ExitStack):
    """Connections for the time of a run, in which the machine may be built several times."""

    def wires(self) -> Sequence[Wire]:
        """Return what COM1 and those after it are connected to."""
        raise NotImplementedError

    def attach(self, pc: Pc) -> None:
        """Let input, if there is any, go to this machine from now on."""


class _Input:
    """Bytes from a descriptor to one serial port of whatever machine there is."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._pc: Pc | None = None
        self.backlog = Backlog(self._wake)
        self._reader: Reader | None = None

    def attach(self, pc: Pc) -> None:
        self._pc = pc

    def start(self, on_data: Callable[[bytes], object], on_end: Callable[[], object]) -> None:
        self._reader = Reader(STDIN, on_data, on_end)
        self._reader.start()

    def stop(self) -> None:
        self.backlog.close()
        if self._reader is not None:
            self._reader.stop()

    def quit(self) -> None:
        if self._pc is not None:
            self._pc.machine.stop(outcome.quit_by_user())

    def _wake(self) -> None:
        if self._pc is not None:
            self._pc.machine.post(self._pc.coms[self._port].poll)


class Quiet(Console):
    """COM1 to a sink, and no input."""

    def __init__(self, sink: Callable[[bytes], None] = discard) -> None:
        super().__init__()
        self._sink = sink

    def wires(self) -> Sequence[Wire]:
        """Return COM1's."""
        return [Wire(self._sink)]

    @classmethod
    def to_file(cls, path: Path) -> Self:
        """Return a console that is written to a new file.  Raises ConfigError."""
        try:
            file = path.open("wb", buffering=0)
        except OSError as error:
            raise ConfigError(
                f"{CONSOLE.flag} {_FILE}{path}: cannot be written: {error.strerror}"
            ) from error
        console = cls(FdSink(file.fileno(), str(path)))
        console.enter_context(file)
        return console


class _Fed(Console):
    """A console with input for one serial port."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self._input = _Input(port)

    def attach(self, pc: Pc) -> None:
        """Let input go to this machine from now on."""
        self._input.attach(pc)


class Stdio(_Fed):
    """COM1 to standard input and output, which if they are a terminal is the guest's own."""

    def __init__(self) -> None:
        super().__init__(port=0)

    def wires(self) -> Sequence[Wire]:
        """Return COM1's."""
        return [Wire(FdSink(STDOUT), self._input.backlog.take, handshake=True)]

    def __enter__(self) -> Self:
        put = self._input.backlog.put
        if os.isatty(STDIN):
            self.enter_context(RawTerminal(STDIN))
            self._input.start(Keyboard(put, self._input.quit, STDOUT), self._input.quit)
        else:
            self._input.start(put, lambda: None)
        self.callback(self._input.stop)
        return self


class ShellStreams(Stdio):
    """A shell on COM1; `status` is its own once it has ended (`ringlet.images.channel`)."""

    def __init__(self) -> None:
        super().__init__()
        self.status: int | None = None

    def wires(self) -> Sequence[Wire]:
        """Return those of all four ports."""
        control = StatusPort(lambda: None, self._ended)
        return [*super().wires(), Wire(discard), Wire(discard), Wire(control)]

    def _ended(self, status: int) -> None:
        self.status = status


class CommandStreams(_Fed):
    """The streams of a command in the guest, as `ringlet.images.channel` has them.

    `status` is the command's own once it has ended.
    """

    def __init__(self, log: Callable[[bytes], None]) -> None:
        super().__init__(port=1)
        self._log = log
        self.status: int | None = None
        self.callback(self._input.stop)

    def wires(self) -> Sequence[Wire]:
        """Return those of all four ports."""
        control = StatusPort(self._ready, self._ended)
        return [
            Wire(self._log),
            Wire(FdSink(STDOUT), self._input.backlog.take, handshake=True),
            Wire(FdSink(STDERR, "standard error")),
            Wire(control),
        ]

    def _ready(self) -> None:
        self._input.start(self._send, lambda: self._input.backlog.put(END_OF_INPUT))

    def _send(self, data: bytes) -> None:
        for frame in frames(data):
            self._input.backlog.put(frame)

    def _ended(self, status: int) -> None:
        self.status = status


def console_for(option: str) -> Console:
    """Return what `--console` asks for.  Raises ConfigError."""
    if option == "stdio":
        return Stdio()
    if option == "none":
        return Quiet()
    if option.startswith(_FILE) and option != _FILE:
        return Quiet.to_file(Path(option.removeprefix(_FILE)))
    raise ConfigError(f"{CONSOLE.flag} {option}: give stdio, file:PATH or none")
