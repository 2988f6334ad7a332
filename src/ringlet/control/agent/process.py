"""A command that runs in the guest, as `subprocess.Popen` has it."""

import errno
import io
import os
import signal
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from ringlet.control.agent.channel import (
    WINDOW,
    Answered,
    Channel,
    End,
    Exited,
    Output,
    Refused,
    deadline_after,
)
from ringlet.control.agent.connection import Connection
from ringlet.errors import AgentError, CommandError, CommandTimeoutError, ConfigError, printable
from ringlet.guest.protocol import (
    Flag,
    Kind,
    Operation,
    Request,
    Stage,
    Tag,
    fields,
    size_of_terminal,
)

Text = str | bytes | os.PathLike[str] | os.PathLike[bytes]
Argv = str | bytes | Sequence[Text]
T = TypeVar("T")

_LARGEST_TERMINAL: Final = 0xFFFF
_OF_A_SHELL: Final = frozenset(" \t\n|&;<>()$`\\\"'*?[#~={}")
_GRACE: Final = 5.0
"""Seconds in which a command that was killed has to end."""


def to_bytes(text: Text, what: str) -> bytes:
    """Return `text` as the guest gets it: UTF-8, where os.fsdecode's stand-ins are their bytes."""
    try:
        plain = os.fspath(text)
    except TypeError:
        raise ConfigError(f"{what} for the guest is text, bytes or a path, not {text!r}") from None
    data = plain.encode("utf-8", "surrogateescape") if isinstance(plain, str) else plain
    if b"\0" in data:
        raise ConfigError(f"{what} for the guest contains a zero byte: {text!r}")
    return data


def to_text(data: bytes | bytearray) -> str:
    """Return bytes of the guest as text, from which `to_bytes` makes the same bytes."""
    return data.decode("utf-8", "surrogateescape")


@dataclass(frozen=True, slots=True)
class Command:
    """What is to run.  `argv`: a list of arguments, or a line for the guest's /bin/sh.

    `env` is added to what a login of the user sets; with `only_env` it is everything.  `cwd` is the
    user's home by default, `user` a name or number, perhaps with ":GROUP", of root by default.
    `tty` is a terminal of `size` (rows, columns), which has one output; `merge` writes errors to
    the output.  Without `stdin`, input is empty.
    """

    argv: Argv
    env: Mapping[str, str] | None = None
    cwd: Text | None = None
    user: str | int | None = None
    tty: bool = False
    size: tuple[int, int] | None = None
    stdin: bool = True
    merge: bool = False
    only_env: bool = False

    @property
    def words(self) -> list[bytes]:
        """The arguments, with the shell's if it is a line."""
        if isinstance(self.argv, str | bytes):
            return [b"/bin/sh", b"-c", to_bytes(self.argv, "the command")]
        if not isinstance(self.argv, Iterable):
            raise ConfigError(
                f"{self.argv!r} is no command; give a line for the guest's shell, or a list of "
                "arguments"
            )
        words = [to_bytes(word, "an argument") for word in self.argv]
        if not words or not words[0]:
            raise ConfigError("no command given to run in the guest")
        return words

    def request(self) -> Request:
        """Return the request.  Raises ConfigError for what no guest can run."""
        rows, columns = self.size or ((24, 80) if self.tty else (0, 0))
        _check_size(rows, columns)
        variables = []
        for name, value in (self.env or {}).items():
            if not name or "=" in name:
                raise ConfigError(f"{name!r} is not a name of an environment variable")
            variables.append(to_bytes(f"{name}={value}", "a variable"))
        parts = fields(Tag.ARGUMENT, self.words) + fields(Tag.VARIABLE, variables)
        if self.cwd is not None:
            parts += ((Tag.DIRECTORY, to_bytes(self.cwd, "the directory")),)
        if self.user is not None:
            parts += ((Tag.USER, to_bytes(str(self.user), "the user")),)
        flags = Flag.NONE
        for flag, wanted in (
            (Flag.TERMINAL, self.tty), (Flag.NO_INPUT, not self.stdin and not self.tty),
            (Flag.MERGE, self.merge), (Flag.ONLY_GIVEN, self.only_env),
        ):  # fmt: skip
            flags |= flag if wanted else Flag.NONE
        return Request(Operation.EXEC, parts, flags, rows, columns, WINDOW)

    def __str__(self) -> str:
        if isinstance(self.argv, str | bytes):
            return repr(self.argv)
        return repr(to_text(b" ".join(self.words)))


def _check_size(rows: int, columns: int) -> None:
    if not (0 <= rows <= _LARGEST_TERMINAL and 0 <= columns <= _LARGEST_TERMINAL):
        raise ConfigError(f"no terminal has {rows} rows and {columns} columns")


class OutputFile(io.RawIOBase):
    """An output of the command.  Reading waits until there is something, or the end."""

    def __init__(self, channel: Channel, which: Output) -> None:
        super().__init__()
        self._channel = channel
        self._which = which

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read at least a byte, or 0 at the end."""
        with memoryview(buffer).cast("B") as view:
            data = self._take(len(view))
            view[: len(data)] = data
            return len(data)

    def read1(self, size: int = -1) -> bytes:
        """Return what is there, at most `size` bytes; wait for the first of them."""
        return bytes(self._take(size))

    def readall(self) -> bytes:
        """Return everything up to the end."""
        parts = []
        while data := self._take(-1):
            parts.append(data)
        return b"".join(parts)

    def _take(self, most: int) -> bytearray:
        if self.closed:
            raise ValueError("read of a closed output")
        channel = self._channel
        with channel.changed:
            channel.wait(lambda: channel.readable(self._which), None)
        return channel.take(self._which, most)

    def close(self) -> None:
        """Read no more; the command gets SIGPIPE if it writes more."""
        if not self.closed:
            self._channel.refuse(self._which)
        super().close()


class InputFile(io.RawIOBase):
    """The command's input, without a buffer."""

    def __init__(self, channel: Channel) -> None:
        super().__init__()
        self._channel = channel

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, data: Any) -> int:
        """Write all of `data`, and wait while the command does not read.

        Raises BrokenPipeError if it reads no more.
        """
        if self.closed:
            raise ValueError("write to a closed input")
        with memoryview(data).cast("B") as view:
            done = 0
            while done < len(view):
                with self._channel.changed:
                    self._channel.wait(self._channel.can_send, None)
                done += self._channel.send_input(view[done:])
            return done

    def close(self) -> None:
        """End the input."""
        if not self.closed:
            self._channel.end_input()
        super().close()


class Process:
    """A command that runs in the guest.  Any thread may call its methods.

    `stdin`, `stdout` and `stderr` are binary files; without input `stdin` is None, with a terminal
    or `merge` so is `stderr`.  The outputs end when the command's process has ended: what it left
    running in the background goes on, but its output is no longer read.
    """

    def __init__(self, connection: Connection, command: Command) -> None:
        self.args = command.argv
        self._command = command
        self.channel = connection.open(command.request())
        self.stdin = InputFile(self.channel) if command.stdin or command.tty else None
        self.stdout = io.BufferedReader(OutputFile(self.channel, Output.OUT), 1 << 16)
        self.stderr: io.BufferedReader | None = None
        if not (command.tty or command.merge):
            self.stderr = io.BufferedReader(OutputFile(self.channel, Output.ERR), 1 << 16)

    def wait_started(self, timeout: float | None = None) -> None:
        """Wait until the command runs.  Raises CommandError if it cannot be started."""
        channel = self.channel
        with channel.changed:
            ready = channel.wait(
                lambda: channel.pid is not None or channel.end is not None, deadline_after(timeout)
            )
        if not ready:
            message = f"{self._command} was not started within {timeout:g} s"
            raise CommandTimeoutError(message, "", "")
        if isinstance(channel.end, Refused):
            raise refusal(channel.end, self._command)

    @property
    def pid(self) -> int | None:
        """The process's number in the guest, once it runs."""
        return self.channel.pid

    @property
    def returncode(self) -> int | None:
        """The exit status, or minus the number of the signal that ended it; None while it runs."""
        return self.poll()

    def poll(self) -> int | None:
        """Return the exit status if the command has ended.  Raises CommandError and AgentError."""
        end = self.channel.result()
        return None if end is None else exit_code(end, self._command)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end and return the exit status.

        Raises CommandTimeoutError, after which the command still runs, CommandError and AgentError.
        As with `subprocess`, a command that waits for a reader of its output does not end.
        """
        channel = self.channel
        with channel.changed:
            if not channel.wait(lambda: channel.end is not None, deadline_after(timeout)):
                raise CommandTimeoutError(f"{self._command} still runs after {timeout:g} s", "", "")
        assert channel.end is not None
        return exit_code(channel.end, self._command)

    def send_signal(self, number: int) -> None:
        """Send a signal to the command and its children, unless it has ended."""
        if not 1 <= number <= 64:
            raise ConfigError(f"Linux has no signal {number}")
        self.channel.signal(number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def resize(self, rows: int, columns: int) -> None:
        """Tell the command's terminal its size; the command gets SIGWINCH."""
        _check_size(rows, columns)
        self.channel.post(Kind.RESIZE, size_of_terminal(rows, columns))

    def close(self) -> None:
        """Close the files."""
        for file in (self.stdin, self.stdout, self.stderr):
            if file is not None:
                file.close()

    def end_now(self) -> None:
        """Kill the command, drop its output and wait for its end, for a few seconds."""
        self.kill()
        channel = self.channel
        for which in Output:
            channel.refuse(which)
        with channel.changed:
            channel.wait(lambda: channel.end is not None, deadline_after(_GRACE))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
        if error is None:
            self.wait()
        else:
            self.kill()

    def __repr__(self) -> str:
        end = self.channel.end
        state = "running" if end is None else f"exit_code={end.code}" if isinstance(
            end, Exited) else "not started"
        return f"<Process {self._command} pid={self.pid} {state}>"


def exit_code(end: End, command: Command) -> int:
    """Return the status of a command's end.  Raises CommandError if it was never started."""
    if isinstance(end, Exited):
        return end.code
    if isinstance(end, Answered):
        raise AgentError("the agent in the guest broke the protocol: a command without a status")
    raise refusal(end, command)


def else_at_home(start: Callable[[Text | None], T], cwd: Text | None) -> T:
    """Return what `start` returns for `cwd`, or without a directory if that cannot be entered.

    The command is then in its user's home, or in `/`.  Raises what `start` raises.
    """
    try:
        return start(cwd)
    except CommandError as error:
        if not error.of_directory:
            raise
        return start(None)


def _no_program(name: str, *, alone: bool) -> str:
    """Return what to say of a program that is not there; `alone`: it has no arguments."""
    if alone and _OF_A_SHELL.intersection(name):
        return "no such program in the guest; for a line of the shell, give sh -c '...'"
    return "no such program in the guest" + ("" if "/" in name else "'s PATH")


def refusal(end: Refused, command: Command) -> CommandError:
    """Return the error of a command that the guest could not start."""
    name = to_text(end.text)
    reason = os.strerror(end.errno)
    if end.stage is Stage.PROGRAM and end.errno == errno.ENOENT:
        message = f"{name!r}: {_no_program(name, alone=len(command.words) == 1)}"
    elif end.stage is Stage.PROGRAM and end.errno == errno.ENOEXEC:
        message = f"{name!r}: no program for this guest; a script begins with a line like #!/bin/sh"
    elif end.stage is Stage.PROGRAM and end.errno == errno.EACCES:
        message = f"{name!r}: not executable in the guest; see its mode"
    elif end.stage is Stage.INTERPRETER:
        message = f"{name!r}: the interpreter or loader that it names is not in the guest"
    elif end.stage is Stage.USER and end.errno == errno.ENOENT:
        message = f"{name!r}: no such user or group in the guest"
    elif end.stage is Stage.USER:
        message = f"{name!r}: the agent cannot become this user: {reason}"
    elif end.stage is Stage.DIRECTORY:
        message = f"{name!r}: cannot be the working directory: {reason}"
    elif end.stage is Stage.TERMINAL:
        message = f"{command}: the guest gives no terminal: {reason}; is devpts on /dev/pts?"
    elif end.stage is Stage.START and end.errno == errno.EUSERS:
        message = f"{command}: the agent carries out as many operations as it can; wait for others"
    else:
        message = f"{printable(name) or str(command)}: cannot be started in the guest: {reason}"
    return CommandError(message, end.errno, of_directory=end.stage is Stage.DIRECTORY)
