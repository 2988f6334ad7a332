"""The exceptions that Ringlet raises.

    Exception
    ├── RingletError            a user's mistake or an unsuitable host; one line says what to do
    │   ├── ConfigError         an option has an impossible value
    │   ├── ProgramError        the program to run cannot be loaded
    │   ├── ImageError          a kernel or tool for the guest cannot be fetched or kept
    │   ├── DiskError           a disk's image cannot be used
    │   ├── HostError           this host lacks something that Ringlet needs
    │   ├── OutputError         the guest's output cannot be written
    │   │   └── ReaderGoneError  nobody reads it any more
    │   ├── BootError           the guest ended or said nothing before it was ready
    │   ├── GuestEnded          the guest has ended and neither reads nor prints; also an EOFError
    │   │   └── GuestPanic      its kernel panicked; `console` has its last lines
    │   ├── GuestTimeout        the guest took longer than it was given; also a TimeoutError
    │   │   ├── AgentTimeoutError    its agent does not answer in time (also an AgentError)
    │   │   └── CommandTimeoutError  a command took too long, and was killed
    │   ├── AgentError          the agent in the guest cannot be reached
    │   ├── CommandError        a command cannot be started in the guest
    │   │   └── CommandFailedError  a command that had to succeed did not; `result` has its output
    │   ├── GuestFileError      a file in the guest cannot be used (also an OSError)
    │   └── HostFileError       a file of the host cannot be copied (also an OSError)
    └── InternalError           a broken invariant: a defect of Ringlet, never of its user

A guest's exception (#PF, #GP, ...) and the end of a run are values, not exceptions: see
`ringlet.machine.outcome`.
"""

import errno
from collections.abc import Mapping
from pathlib import Path
from typing import Final

_TASKS: Final = "raise the limit of tasks (ulimit -u, pids.max)"
_LIMITS: Final = {
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "the host has too many open files (fs.file-max)",
    errno.EAGAIN: _TASKS,
    errno.EFBIG: "raise the limit of file sizes (ulimit -f), which guest RAM needs too",
}
_NO_THREAD = "can't start new thread"  # as Python says it


class RingletError(Exception):
    """An error that the user can correct.

    The message is one line without a final full stop and without the program's name: the command
    line prints it after `ringlet: ` and exits with `exit_status`.
    """

    exit_status = 2


class ConfigError(RingletError):
    """An option has a value that Ringlet cannot use."""


class ProgramError(RingletError):
    """The program named on the command line cannot be loaded."""


class ImageError(RingletError):
    """A kernel or a tool for the guest cannot be fetched or kept."""


class DiskError(RingletError):
    """A disk's image cannot be opened, made, or locked."""


class HostError(RingletError):
    """The host lacks something that every guest needs; `ringlet doctor` lists the details."""


class OutputError(RingletError):
    """The guest's output cannot be written because its reader is gone or the disk is full."""


class ReaderGoneError(OutputError):
    """The reader of a standard stream has closed it, as `head` does when it has seen enough.

    The command line says nothing then and exits with the status of SIGPIPE, as `cat` does.
    """

    exit_status = 141  # 128 + SIGPIPE


class BootError(RingletError):
    """The guest ended, or said nothing for too long, before it was ready."""


class GuestEnded(RingletError, EOFError):  # noqa: N818 - an end is no error of the guest's
    """The guest has ended: it reads and prints nothing more."""


class GuestPanic(GuestEnded):
    """The guest's kernel panicked.  `console` is the last that it printed, some lines of text."""

    def __init__(self, message: str, console: str = "") -> None:
        super().__init__(message)
        self.console = console


class GuestTimeout(RingletError, TimeoutError):  # noqa: N818 - as TimeoutError's other kinds
    """The guest took longer than the caller allowed."""


class AgentError(RingletError):
    """The connection to the agent in the guest is closed, or the agent broke the protocol."""


class AgentTimeoutError(AgentError, GuestTimeout):
    """The agent in the guest does not answer in time."""


class CommandError(RingletError):
    """A command cannot be started in the guest.

    `errno` is the guest's error.  `exit_status` is 127 if there is no such program, else 126, as a
    shell has it.  `of_directory`: its working directory cannot be entered.
    """

    exit_status = 126

    def __init__(self, message: str, number: int = 0, *, of_directory: bool = False) -> None:
        super().__init__(message)
        self.of_directory = of_directory
        self.errno = number
        if number in (errno.ENOENT, errno.ENOTDIR):
            self.exit_status = 127


class CommandFailedError(CommandError):
    """A command that had to succeed ended with another status, or by a signal.

    `result` is its `ringlet.control.agent.Result`, or None if it was killed because it printed too
    much.
    """

    exit_status = 1

    def __init__(self, message: str, result: object) -> None:
        super().__init__(message)
        self.result = result


class CommandTimeoutError(GuestTimeout):
    """A command in the guest took too long, and was killed.

    `stdout` and `stderr` are what it has printed.
    """

    exit_status = 124

    def __init__(self, message: str, stdout: str | bytes, stderr: str | bytes) -> None:
        super().__init__(message)
        self.stdout = stdout
        self.stderr = stderr

    def as_text(self) -> "CommandTimeoutError":
        """Return the error with its outputs as text (UTF-8, other bytes as in os.fsdecode)."""
        texts = [
            data.decode("utf-8", "surrogateescape") if isinstance(data, bytes) else data
            for data in (self.stdout, self.stderr)
        ]
        return CommandTimeoutError(str(self), *texts)


class _FileError(RingletError, OSError):
    _side = ""

    def __init__(self, number: int, reason: str, filename: str) -> None:
        super().__init__(number, reason, filename)
        self.errno = number
        self.strerror = reason
        self.filename = filename

    def __str__(self) -> str:
        return f"{printable(str(self.filename))}: {self.strerror} ({self._side})"


class GuestFileError(_FileError):
    """A file in the guest cannot be used.  `errno` and `filename` are as in OSError."""

    _side = "in the guest"


class HostFileError(_FileError):
    """A file of the host cannot be copied.  `errno` and `filename` are as in OSError."""

    _side = "on the host"


class InternalError(Exception):
    """A broken invariant inside Ringlet.

    `details` holds the values that a report needs: registers, counters, the fields of the exit.
    """

    exit_status = 70

    def __init__(self, message: str, details: Mapping[str, object] | None = None) -> None:
        super().__init__(message)
        self.details: dict[str, object] = dict(details or {})

    def __str__(self) -> str:
        message = str(self.args[0])
        if not self.details:
            return message
        return f"{message} ({', '.join(f'{k}={_show(v)}' for k, v in self.details.items())})"


def printable(text: str) -> str:
    """Return text of a guest as a message may show it: one line, nothing that a terminal obeys."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode()
        for c in text
    )


def remedy(error: OSError) -> str:
    """Return what to do about a limit of the host that `error` comes from; empty: it is none."""
    return _LIMITS.get(error.errno or 0, "")


def unexpected(
    error: Exception, details: Mapping[str, object] | None = None
) -> HostError | InternalError:
    """Return the report of an exception that nobody expected, with the place that raised it.

    A host that allows no more threads can say so anywhere.
    """
    if str(error) == _NO_THREAD:
        return HostError(f"the host allows no more threads; {_TASKS}")
    if isinstance(error, InternalError):
        return InternalError(str(error.args[0]), {**(details or {}), **error.details})
    where = "?"
    if (step := error.__traceback__) is not None:
        while step.tb_next is not None:
            step = step.tb_next
        where = f"{Path(step.tb_frame.f_code.co_filename).name}:{step.tb_lineno}"
    report = InternalError(f"{type(error).__name__}: {error}", {"at": where, **(details or {})})
    report.__cause__ = error
    return report


def _show(value: object) -> str:
    return f"{value:#x}" if type(value) is int else str(value)
