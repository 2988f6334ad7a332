"""One operation on files: what is sent and received until it ends, or the guest stalls."""

import errno
import os
import signal
from collections.abc import Iterator
from typing import Final, Self

from ringlet.control.agent.channel import Answered, Channel, Exited, Output, Refused, deadline_after
from ringlet.control.agent.connection import Connection
from ringlet.control.agent.frames import violation
from ringlet.errors import AgentError, AgentTimeoutError, GuestFileError
from ringlet.guest.protocol import Request

PATIENCE: Final = 60.0
"""Seconds without any progress after which an operation is given up."""


class Transfer:
    """An operation on files that goes on.  As a context manager it is ended on an exception.

    `path` is what errors name.  Every wait is at most `patience` seconds: AgentTimeoutError.
    """

    def __init__(
        self, connection: Connection, request: Request, path: str, patience: float | None
    ) -> None:
        self._path = path
        self._patience = patience
        self._channel: Channel = connection.open(request)

    def parts(self) -> Iterator[bytearray]:
        """Yield the output as it comes, then check how the operation ended."""
        channel = self._channel
        while True:
            with channel.changed:
                self._require(
                    channel.wait(
                        lambda: channel.readable(Output.OUT), deadline_after(self._patience)
                    )
                )
            if not (data := channel.take(Output.OUT)):
                break
            yield data
        self.finish()

    def collect(self, limit: int) -> bytes:
        """Return the whole output.  Raises GuestFileError if it has more than `limit` bytes."""
        kept = []
        size = 0
        for part in self.parts():
            size += len(part)
            if size > limit:
                reason = f"has more than {limit} bytes; give a larger limit, or copy it out"
                raise GuestFileError(errno.EFBIG, reason, self._path)
            kept.append(part)
        return b"".join(kept)

    def send(self, data: bytes | bytearray | memoryview) -> bool:
        """Send all of `data`; return False if the operation reads no more, as after an error."""
        channel = self._channel
        view = memoryview(data)
        while view:
            with channel.changed:
                self._require(channel.wait(channel.can_send, deadline_after(self._patience)))
            try:
                view = view[channel.send_input(view) :]
            except BrokenPipeError:
                return False
        return True

    def finish(self) -> None:
        """End the input, and wait for the end.  Raises GuestFileError and AgentError."""
        channel = self._channel
        channel.end_input()
        with channel.changed:
            self._require(
                channel.wait(lambda: channel.end is not None, deadline_after(self._patience))
            )
        match channel.end:
            case Exited(0):
                return
            case Refused(number, _, name):
                raise _refusal(number, name, self._path)
            case Exited(code):
                raise AgentError(f"{self._path}: the agent's process ended with {code}")
            case Answered():
                raise violation("an answer that was not asked for")
            case _:
                raise AssertionError("a wait without an end")

    def _require(self, in_time: bool) -> None:
        if not in_time:
            raise AgentTimeoutError(
                f"{self._path}: nothing came from the guest for {self._patience:g} s"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._channel.end is None:
            # A file that is being written is removed when its input ends too early.
            self._channel.end_input()
            self._channel.signal(signal.SIGTERM)
            self._channel.refuse(Output.OUT)


def _refusal(number: int, name: bytes, path: str) -> GuestFileError:
    inner = name.decode("utf-8", "surrogateescape")
    where = path if inner in ("", path) or "/" in inner else f"{path} ({inner})"
    return GuestFileError(number, os.strerror(number), where)
