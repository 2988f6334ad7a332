"""The user's terminal as the guest's console: raw while the guest runs, else as it was before."""

import contextlib
import os
import select
import signal
import termios
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from types import FrameType
from typing import Final, Self

from ringlet.cli.signals import held
from ringlet.core.signals import forget_terminal, keep_terminal
from ringlet.errors import OutputError

ESCAPE: Final = 0x01  # Ctrl-A
HELP: Final = (
    b"\r\n"
    b"Ctrl-A x       end the machine\r\n"
    b"Ctrl-A h       this list\r\n"
    b"Ctrl-A Ctrl-A  send Ctrl-A to the guest\r\n"
)

_READ_SIZE: Final = 32768
# Signals that end a process by default.  RawTerminal leaves those that have a handler alone.
_ENDING: Final = (
    signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2,
    signal.SIGVTALRM, signal.SIGXCPU,
)  # fmt: skip
Attributes = list[int | list[bytes | int]]


@dataclass(frozen=True, slots=True)
class WindowSize:
    """A terminal's size in characters."""

    rows: int
    columns: int


class Action(Enum):
    """A command that the user gives to Ringlet, not to the guest."""

    QUIT = "x"
    HELP = "h"


class EscapeParser:
    """Separates input for the guest from commands to Ringlet, however reads divide the bytes.

    If the key after Ctrl-A is not a command, both keys go to the guest.
    """

    def __init__(self) -> None:
        self._escaped = False

    def feed(self, data: bytes) -> Iterator[bytes | Action]:
        """Yield bytes for the guest and actions, in order."""
        pending = bytearray()
        for byte in data:
            if not self._escaped:
                if byte == ESCAPE:
                    self._escaped = True
                else:
                    pending.append(byte)
                continue
            self._escaped = False
            action = _ACTIONS.get(byte)
            if action is None:
                pending += bytes([ESCAPE] if byte == ESCAPE else [ESCAPE, byte])
                continue
            if pending:
                yield bytes(pending)
                pending.clear()
            yield action
        if pending:
            yield bytes(pending)


_ACTIONS: Final = {ord(action.value): action for action in Action}


def raw(attributes: Attributes) -> Attributes:
    """Return `attributes` changed so that every byte passes unchanged in both directions."""
    iflag, oflag, cflag, lflag, *rest = unbuffered(attributes)
    assert isinstance(oflag, int)
    assert isinstance(lflag, int)
    return [iflag, oflag & ~termios.OPOST, cflag, lflag & ~termios.ISIG, *rest]


def unbuffered(attributes: Attributes) -> Attributes:
    """Return `attributes` changed so that keys arrive at once, unchanged and without an echo.

    Keys such as Ctrl-C still send signals, and a line of output still ends with LF alone.
    """
    iflag, oflag, cflag, lflag, *speeds, cc = attributes
    assert isinstance(iflag, int)
    assert isinstance(cflag, int)
    assert isinstance(lflag, int)
    assert isinstance(cc, list)
    iflag &= ~(
        termios.IGNBRK | termios.BRKINT | termios.PARMRK | termios.ISTRIP | termios.INLCR
        | termios.IGNCR | termios.ICRNL | termios.IXON
    )  # fmt: skip
    cflag = cflag & ~(termios.CSIZE | termios.PARENB) | termios.CS8
    lflag &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.IEXTEN)
    cc = list(cc)
    cc[termios.VMIN], cc[termios.VTIME] = 1, 0
    return [iflag, oflag, cflag, lflag, *speeds, cc]


def window_size(fd: int) -> WindowSize | None:
    """Return the size of the terminal `fd`, or None if it is not a terminal or has no size."""
    try:
        size = os.get_terminal_size(fd)
    except OSError:
        return None
    return WindowSize(size.lines, size.columns) if size.lines and size.columns else None


def in_foreground(fd: int) -> bool:
    """Return whether this process may use the terminal `fd`, as jobs in the background may not."""
    try:
        return os.tcgetpgrp(fd) == os.getpgrp()
    except OSError:  # not the terminal that controls this process
        return True


class RawTerminal:
    """Makes the terminal `fd` raw from entry to exit.  Only the main thread may use it.

    The terminal gets its former attributes back after an exception, after a signal that ends the
    process (even by SIGSEGV, after which no Python code runs), and while it is stopped; when the
    process continues, the terminal becomes raw again.  A process in the background leaves the
    terminal alone; one that begins there stops, as if it had read, until its shell brings it to the
    foreground.  `on_resize` is called with the window's new size.  `change` makes the terminal's
    attributes of the former ones.
    """

    def __init__(
        self,
        fd: int,
        on_resize: Callable[[WindowSize], None] = lambda size: None,
        change: Callable[[Attributes], Attributes] = raw,
    ) -> None:
        self._fd = fd
        self._change = change
        self._on_resize = on_resize
        self._saved: Attributes | None = None
        self._handlers: dict[signal.Signals, signal._HANDLER] = {}

    def __enter__(self) -> Self:
        try:
            self._saved = termios.tcgetattr(self._fd)
        except termios.error as error:
            raise OutputError(f"cannot set up the terminal: {error.args[-1]}") from error
        keep_terminal(self._fd)
        self._catch(signal.SIGTSTP, self._suspend)
        self._catch(signal.SIGCONT, self._resumed)
        self._catch(signal.SIGWINCH, self._resized)
        for number in _ENDING:
            if signal.getsignal(number) is signal.SIG_DFL:
                self._catch(number, self._ended)
        if not in_foreground(self._fd):
            signal.raise_signal(signal.SIGTTIN)
        self._set_raw()
        return self

    def __exit__(self, *_: object) -> None:
        with held():
            for number, handler in self._handlers.items():
                # What was ignored meanwhile stays so: counters that are asked for late.
                if signal.getsignal(number) is not signal.SIG_IGN:
                    signal.signal(number, handler)
            self._handlers.clear()
            self._restore()
            forget_terminal()

    # --- signals

    def _catch(
        self, number: signal.Signals, handler: Callable[[int, FrameType | None], None]
    ) -> None:
        previous = signal.signal(number, handler)
        self._handlers[number] = signal.SIG_DFL if previous is None else previous

    def _suspend(self, number: int, frame: FrameType | None) -> None:
        self._restore()
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)  # the process is stopped here
        signal.signal(number, self._suspend)
        self._set_raw()

    def _resumed(self, number: int, frame: FrameType | None) -> None:
        # Other processes may have changed the terminal's attributes or size in the meantime.
        self._set_raw()
        self._resized(number, frame)

    def _resized(self, number: int, frame: FrameType | None) -> None:
        size = window_size(self._fd)
        if size is not None:
            self._on_resize(size)

    def _ended(self, number: int, frame: FrameType | None) -> None:
        self._restore()
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)

    # --- attributes

    def _set_raw(self) -> None:
        if self._saved is not None and in_foreground(self._fd):
            self._set(self._change(self._saved))

    def _restore(self) -> None:
        # Setting attributes from the background would stop this process, and the terminal
        # belongs to another process then.
        if self._saved is not None and in_foreground(self._fd):
            self._set(self._saved)

    def _set(self, attributes: Attributes) -> None:
        with contextlib.suppress(termios.error):  # the terminal is gone
            # TCSANOW does not wait for pending output, which may never be read.
            termios.tcsetattr(self._fd, termios.TCSANOW, attributes)


class Reader:
    """Reads `fd` in a thread of its own until the end of input or until it is stopped.

    Where `fd` is a terminal that another job has, reading stops the process until it is its turn.

    `on_data` is called with the data and may block; `on_end` is called once at the end of input.
    `on_failure` is called with an exception of either of them, or of the thread itself, which ends.
    """

    def __init__(
        self,
        fd: int,
        on_data: Callable[[bytes], object],
        on_end: Callable[[], object],
        on_failure: Callable[[Exception], object],
    ) -> None:
        self._fd = fd
        self._on_data = on_data
        self._on_end = on_end
        self._on_failure = on_failure
        self._stop_read, self._stop_write = os.pipe()
        self._thread = threading.Thread(target=self._work, name="reader", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, timeout: float = 1.0) -> None:
        """Stop the thread and wait `timeout` seconds for it; `on_data` must not block any more."""
        os.write(self._stop_write, b"x")
        if self._thread.ident is not None:  # it could be started
            self._thread.join(timeout)
        if not self._thread.is_alive():
            os.close(self._stop_read)
            os.close(self._stop_write)

    def _work(self) -> None:
        # With SIGTTIN blocked, a read from the background would fail instead of waiting.
        signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals() - {signal.SIGTTIN})
        try:
            self._read()
        except Exception as error:  # noqa: BLE001 - the run ends with it
            self._on_failure(error)

    def _read(self) -> None:
        poll = select.poll()
        for fd in (self._fd, self._stop_read):
            poll.register(fd, select.POLLIN)
        while True:
            if any(fd == self._stop_read for fd, _ in poll.poll()):
                return
            try:
                data = os.read(self._fd, _READ_SIZE)
            except BlockingIOError:
                continue
            except OSError:  # the terminal is gone, or the descriptor is not for reading
                data = b""
            if not data:
                self._on_end()
                return
            self._on_data(data)


class Keyboard:
    """Passes the user's input to the guest and carries out commands to Ringlet.

    `show` is called with the list of keys.
    """

    def __init__(
        self,
        send: Callable[[bytes], object],
        quit_: Callable[[], object],
        show: Callable[[bytes], object],
    ) -> None:
        self._send = send
        self._quit = quit_
        self._show = show
        self._parser = EscapeParser()

    def __call__(self, data: bytes) -> None:
        """Handle the input `data`."""
        for part in self._parser.feed(data):
            match part:
                case Action.QUIT:
                    self._quit()
                case Action.HELP:
                    self._show(HELP)
                case bytes():
                    self._send(part)
