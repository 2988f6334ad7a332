"""One operation that the agent carries out: its streams, with their credits, and its end.

The connection's thread calls the methods `on_...` with what the guest has sent; each raises
AgentError if the guest does not keep to the protocol.  Any thread may call the others.
"""

import enum
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from ringlet.control.agent.frames import violation
from ringlet.errors import AgentError
from ringlet.guest.protocol import INPUT_WINDOW, MAX_PAYLOAD, MAX_TEXT, WORD, Kind, Stage

WINDOW: Final = 1 << 20
"""Bytes of an output that the guest may send before the program has read them."""
CHUNK: Final = 131072
"""Bytes of input that are sent in a frame."""

_WORDS: Final = struct.Struct("<II")
_CODE: Final = struct.Struct("<i")
_STAGES: Final = {int(stage): stage for stage in Stage}

Send = Callable[[int, Kind, bytes | memoryview], None]


class Output(enum.IntEnum):
    """The two outputs of an operation."""

    OUT = 0
    ERR = 1


@dataclass(frozen=True, slots=True)
class Exited:
    """The process has ended: `code` is its status, or minus the number of a signal."""

    code: int


@dataclass(frozen=True, slots=True)
class Refused:
    """The operation failed in the guest: an error number, in what, and a name."""

    errno: int
    stage: Stage
    text: bytes


@dataclass(frozen=True, slots=True)
class Answered:
    """The operation's result, which needed no process."""

    payload: bytes


End = Exited | Refused | Answered


def deadline_after(seconds: float | None) -> float | None:
    """Return the moment `seconds` from now, on the monotonic clock."""
    return None if seconds is None else time.monotonic() + seconds


class _Received:
    """An output: what has come and was not read.  At most WINDOW bytes."""

    __slots__ = ("allowed", "consumed", "data", "ended", "unwanted")

    def __init__(self) -> None:
        self.data = bytearray()
        self.allowed = WINDOW
        self.consumed = 0
        self.ended = False
        self.unwanted = False


class Channel:
    """The host's side of one operation."""

    def __init__(self, number: int, send: Send) -> None:
        self.number = number
        self.changed = threading.Condition()
        self.pid: int | None = None
        self.end: End | None = None
        """How it ended; output may still come."""
        self.closed = False
        """Whether nothing more comes."""
        self._send = send
        self._outputs = (_Received(), _Received())
        self._credit = INPUT_WINDOW
        self._unconfirmed = 0
        self._input_ended = False
        self._input_refused = False
        self._error: AgentError | None = None

    # --- from the guest

    def on_data(self, which: Output, payload: memoryview) -> None:
        """Take bytes of an output."""
        output = self._outputs[which]
        size = len(payload)
        with self.changed:
            if not size or size > output.allowed or output.ended:
                raise violation("output without credit")
            output.allowed -= size
            if output.unwanted:
                return
            output.data += payload
            self.changed.notify_all()

    def on_output_end(self, which: Output) -> None:
        """Note the end of an output."""
        with self.changed:
            if self._outputs[which].ended:
                raise violation("an output that ends twice")
            self._outputs[which].ended = True
            self.changed.notify_all()

    def on_input_end(self) -> None:
        """Note that the process reads no more input."""
        with self.changed:
            if self._input_refused and self.end is None:
                raise violation("an input that ends twice")
            self._input_refused = True
            self.changed.notify_all()

    def on_credit(self, payload: memoryview) -> None:
        """Take credit for input that was sent."""
        if len(payload) != WORD.size:
            raise violation("a credit of a wrong length")
        (credit,) = WORD.unpack(payload)
        with self.changed:
            if not 0 < credit <= self._unconfirmed:
                raise violation("credit for input that was not sent")
            self._unconfirmed -= credit
            self._credit += credit
            self.changed.notify_all()

    def on_started(self, payload: memoryview) -> None:
        """Note the process's number."""
        if len(payload) != WORD.size:
            raise violation("a start of a wrong length")
        with self.changed:
            if self.pid is not None:
                raise violation("a process that starts twice")
            (self.pid,) = WORD.unpack(payload)
            self.changed.notify_all()

    def on_end(self, kind: Kind, payload: memoryview) -> None:
        """Take the operation's end.  Output may follow EXIT; after the others nothing comes."""
        if kind is Kind.EXIT:
            if len(payload) != _CODE.size:
                raise violation("an exit of a wrong length")
            (code,) = _CODE.unpack(payload)
            if not -64 <= code <= 255:
                raise violation(f"an exit status of {code}")
            end: End = Exited(code)
        elif kind is Kind.RESULT:
            end = Answered(bytes(payload))
        else:
            if not _WORDS.size <= len(payload) <= _WORDS.size + MAX_TEXT:
                raise violation("an error of a wrong length")
            number, stage = _WORDS.unpack_from(payload)
            if stage not in _STAGES or not 0 < number < 4096:
                raise violation("an error that is none")
            end = Refused(number, _STAGES[stage], bytes(payload[_WORDS.size :]))
        with self.changed:
            if self.end is not None:
                raise violation("an operation that ends twice")
            self.end = end
            self._input_refused = True
            if kind is not Kind.EXIT:
                self._close()
            self.changed.notify_all()

    def on_closed(self) -> None:
        """Note that nothing more comes."""
        with self.changed:
            if self.end is None:
                raise violation("an operation without an end")
            self._close()
            self.changed.notify_all()

    def _close(self) -> None:
        self.closed = True
        for output in self._outputs:
            output.ended = True

    def fail(self, error: AgentError) -> None:
        """Wake every waiter with `error`: the connection has ended."""
        with self.changed:
            self._error = error
            self.changed.notify_all()

    # --- for the program

    def wait(self, ready: Callable[[], object], deadline: float | None) -> bool:
        """Wait, with `changed` held, until `ready`; return whether it is before `deadline`.

        Raises the connection's error if it ends first.
        """
        while not ready():
            if self._error is not None:
                raise AgentError(str(self._error))
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return False
            self.changed.wait(left)
        return True

    def result(self) -> End | None:
        """Return how it ended, or None while it runs.  Raises AgentError if nobody can know."""
        if self.end is None and self._error is not None:
            raise AgentError(str(self._error))
        return self.end

    def readable(self, which: Output) -> bool:
        """Return whether there is something to take, or the end."""
        output = self._outputs[which]
        return bool(output.data) or output.ended or output.unwanted

    def ended(self, which: Output) -> bool:
        """Return whether everything was taken."""
        output = self._outputs[which]
        return output.unwanted or (output.ended and not output.data)

    def take(self, which: Output, most: int = -1) -> bytearray:
        """Return what has come, at most `most` bytes of it, and let the guest send as much."""
        output = self._outputs[which]
        with self.changed:
            if most < 0 or most >= len(output.data):
                data, output.data = output.data, bytearray()
            else:
                data = output.data[:most]
                del output.data[:most]
            output.consumed += len(data)
            credit = 0
            if output.consumed >= WINDOW // 4 and not output.ended:
                credit, output.consumed = output.consumed, 0
                output.allowed += credit
        if credit:
            self._send(self.number, Kind(Kind.CREDIT_OUT + which), WORD.pack(credit))
        return data

    def refuse(self, which: Output) -> None:
        """Read no more of an output; the process gets SIGPIPE if it writes more."""
        output = self._outputs[which]
        with self.changed:
            told, output.unwanted = output.unwanted or output.ended, True
            output.data.clear()
            self.changed.notify_all()
        if not told:
            self._send(self.number, Kind(Kind.END_OUT + which), b"")

    @property
    def input_is_open(self) -> bool:
        """Return whether the process may read more input."""
        return not (self._input_ended or self._input_refused)

    def can_send(self) -> bool:
        """Return whether `send_input` would not have to wait."""
        return self._credit > 0 or not self.input_is_open

    def send_input(self, data: memoryview) -> int:
        """Send the beginning of `data`, as much as there is credit for; return its length.

        Raises BrokenPipeError if the process reads no more, ValueError after `end_input`.
        """
        with self.changed:
            if self._input_ended:
                raise ValueError("write to a closed input")
            if self._error is not None:
                raise AgentError(str(self._error))
            if self._input_refused:
                raise BrokenPipeError("the command in the guest reads no more input")
            size = min(len(data), self._credit, CHUNK, MAX_PAYLOAD)
            self._credit -= size
            self._unconfirmed += size
            # Under the lock, so that two writers' parts keep their order.
            if size:
                self._send(self.number, Kind.DATA_IN, data[:size])
        return size

    def end_input(self) -> None:
        """Send the end of the input, once."""
        with self.changed:
            if self.input_is_open and self._error is None:
                self._send(self.number, Kind.END_IN, b"")
            self._input_ended = True

    def signal(self, number: int) -> None:
        """Send a signal to the process's group, if the process runs."""
        with self.changed:
            if self.end is None and self._error is None:
                self._send(self.number, Kind.SIGNAL, WORD.pack(number))

    def post(self, kind: Kind, payload: bytes) -> None:
        """Send a frame that needs no credit, if the operation goes on."""
        with self.changed:
            if self.end is None and self._error is None:
                self._send(self.number, kind, payload)
