"""Runs a command in the guest to its end, as `subprocess.run` does."""

import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import AnyStr, Final, Generic

from ringlet.control.agent.channel import Output, deadline_after
from ringlet.control.agent.connection import Connection
from ringlet.control.agent.process import Command, Process, to_text
from ringlet.errors import AgentError, CommandFailedError, CommandTimeoutError, printable

MAX_OUTPUT: Final = 1 << 28
"""Bytes of output that are kept of one command; a command that prints more is killed."""

OnOutput = Callable[[bytes], object]

_SHOWN: Final = 60
_SHOWN_IN_ERROR: Final = 500


@dataclass(frozen=True)
class Result(Generic[AnyStr]):
    """How a command ended: its outputs, status, and seconds it took.

    `exit_code` is minus the number of the signal that ended it, if one did.  An output for which
    there was a function is empty.
    """

    args: object = field(repr=False)
    stdout: AnyStr
    stderr: AnyStr
    exit_code: int
    duration: float

    @property
    def ok(self) -> bool:
        """Whether it succeeded."""
        return self.exit_code == 0

    def check(self) -> "Result[AnyStr]":
        """Return the result.  Raises CommandFailedError if the command did not succeed."""
        if self.exit_code:
            raise CommandFailedError(self._failure(), self)
        return self

    def _failure(self) -> str:
        what = f"exit status {self.exit_code}"
        if self.exit_code < 0:
            what = _signal_name(-self.exit_code)
        printed = self.stderr or self.stdout
        text = to_text(printed) if isinstance(printed, bytes) else str(printed)
        end = printable(text.strip()[-_SHOWN_IN_ERROR:].replace("\n", " / "))
        return f"{self.args}: {what}" + (f": {end}" if end else "")

    def __repr__(self) -> str:
        parts = [f"exit_code={self.exit_code}"]
        for name, value in (("stdout", self.stdout), ("stderr", self.stderr)):
            if value:
                more = f"+{len(value) - _SHOWN}" if len(value) > _SHOWN else ""
                parts.append(f"{name}={value[:_SHOWN]!r}{more}")
        return f"<Result {self.args}: {', '.join(parts)}, {self.duration:.3f} s>"


def _signal_name(number: int) -> str:
    try:
        return f"ended by {signal.Signals(number).name}"
    except ValueError:
        return f"ended by signal {number}"


class _Collected:
    """What one output has given: kept, or passed on."""

    def __init__(self, function: OnOutput | None) -> None:
        self._function = function
        self._parts: list[bytearray] = []
        self.size = 0

    def take(self, data: bytearray) -> None:
        if not data:
            return
        if self._function is not None:
            self._function(bytes(data))
            return
        self._parts.append(data)
        self.size += len(data)

    def all(self) -> bytes:
        return b"".join(self._parts)


class Run:
    """One command, its input and its outputs."""

    def __init__(
        self,
        connection: Connection,
        command: Command,
        data: memoryview,
        on_stdout: OnOutput | None,
        on_stderr: OnOutput | None,
    ) -> None:
        self._command = command
        self._began = time.monotonic()
        self._input = data
        self._outputs = (_Collected(on_stdout), _Collected(on_stderr))
        self._process = Process(connection, command)
        if not data:
            self._process.channel.end_input()

    def finish(self, timeout: float | None) -> Result[bytes]:
        """Go on until the command has ended.

        Raises CommandError, CommandTimeoutError and AgentError.  Whatever is raised, the command is
        killed.
        """
        try:
            self._go_on(deadline_after(timeout), timeout)
        except BaseException:
            # An exception that is on its way matters more than the guest's failure to end.
            self._end_quietly()
            raise
        return Result(
            self._command, self._outputs[0].all(), self._outputs[1].all(),
            self._process.wait(0), time.monotonic() - self._began,
        )  # fmt: skip

    def _end_quietly(self) -> None:
        try:
            self._process.end_now()
        except AgentError:
            return

    def _go_on(self, deadline: float | None, timeout: float | None) -> None:
        channel = self._process.channel

        def ready() -> bool:
            return (
                channel.closed
                or any(channel.readable(w) and not channel.ended(w) for w in Output)
                or (bool(self._input) and channel.can_send())
            )

        while True:
            with channel.changed:
                in_time = channel.wait(ready, deadline)
                ended = channel.closed
            if not in_time:
                raise self._too_late(timeout)
            for which in Output:
                self._outputs[which].take(channel.take(which))
            if sum(output.size for output in self._outputs) > MAX_OUTPUT:
                raise CommandFailedError(
                    f"{self._command} printed more than {MAX_OUTPUT >> 20} MiB and was killed; "
                    "use on_stdout, or popen",
                    None,
                )
            if ended:
                return
            self._send_some()

    def _send_some(self) -> None:
        channel = self._process.channel
        if not self._input:
            return
        if channel.input_is_open:
            try:
                self._input = self._input[channel.send_input(self._input) :]
            except BrokenPipeError:  # as subprocess.run: it may have read enough
                self._input = self._input[:0]
        else:
            self._input = self._input[:0]
        if not self._input:
            channel.end_input()

    def _too_late(self, timeout: float | None) -> CommandTimeoutError:
        out, err = (output.all() for output in self._outputs)
        return CommandTimeoutError(f"{self._command} was killed after {timeout:g} s", out, err)
