"""Answers gdb's packets about a stopped guest (GDB manual, appendices E.2-E.6).

This module runs on the guest's thread.  Every packet gets an answer: an empty one if the packet is
unknown, E and two digits if the request cannot be carried out.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final, Protocol

from ringlet.debug import registers
from ringlet.debug.layouts import LayoutNow
from ringlet.debug.protocol import PACKET_SIZE, number, numbers, octets
from ringlet.debug.registers import ReadOnlyError
from ringlet.debug.stops import SIGINT, Kind, Points, Stop
from ringlet.debug.target import describe
from ringlet.machine.place import in_long_mode

OK: Final = b"OK"
MALFORMED: Final = b"E01"
REFUSED: Final = b"E03"
NO_MEMORY: Final = b"E0e"
NO_ROOM: Final = b"E1c"
_LINEAR_END: Final = 1 << 64
_LINEAR_END_32: Final = 1 << 32
_FEATURES: Final = (
    b"PacketSize=%x;qXfer:features:read+;QStartNoAckMode+;swbreak+;hwbreak+;vContSupported+"
    % PACKET_SIZE
)


class Cpu(registers.Cpu, Protocol):
    """The part of a processor that a debugger uses (`ringlet.vcpu.processor.Processor`)."""

    def read_linear(self, address: int, size: int) -> bytes: ...
    def poke_linear(self, address: int, data: bytes) -> None: ...
    def debug_go(self, step: bool, skip: bool) -> None: ...
    def debug_stop(self) -> tuple[int, int]: ...


class Next(Enum):
    """The guest's next action after a command."""

    STAY = auto()
    RUN = auto()
    STEP = auto()
    DETACH = auto()
    KILL = auto()


Answer = tuple[bytes | None, Next]
"""The packet to send, if any, and the guest's next action."""


def _stay(reply: bytes) -> Answer:
    return reply, Next.STAY


@dataclass
class Commands:
    """Answers packets about a guest that stopped for `stop`."""

    cpu: Cpu
    points: Points
    layout_now: LayoutNow
    monitor: Callable[[str], str]
    stop: Stop = field(default_factory=lambda: Stop(SIGINT))

    def __post_init__(self) -> None:
        self.connected()
        self._table: dict[bytes, Callable[[bytes], Answer]] = {
            b"?": lambda rest: _stay(self.stop.reply()),
            b"g": lambda rest: _stay(self._read_all()),
            b"G": self._write_all,
            b"p": self._read_one,
            b"P": self._write_one,
            b"m": self._read_memory,
            b"M": self._write_memory,
            b"X": self._write_binary,
            b"c": lambda rest: self._resume(rest, Next.RUN),
            b"s": lambda rest: self._resume(rest, Next.STEP),
            b"C": self._resume_signalled,
            b"S": self._resume_signalled,
            b"Z": self._insert,
            b"z": self._remove,
            b"H": lambda rest: _stay(OK),
            b"T": lambda rest: _stay(OK),
            b"D": lambda rest: (OK, Next.DETACH),
            b"k": lambda rest: (None, Next.KILL),
            b"v": self._long,
            b"q": self._query,
            b"Q": lambda rest: _stay(OK if rest == b"StartNoAckMode" else b""),
        }

    def answer(self, packet: bytes) -> Answer:
        """Return the answer to `packet`."""
        command = self._table.get(packet[:1])
        if command is None:
            return _stay(b"")
        try:
            return command(packet[1:])
        except ReadOnlyError:
            return _stay(REFUSED)
        except ValueError:
            return _stay(MALFORMED)

    def connected(self) -> None:
        """Begin with another gdb, which has not read a description yet."""
        self.layout = self.layout_now()
        self._description = describe(self.layout)

    # --- registers

    def _read_all(self) -> bytes:
        registers = self.layout.registers
        return b"".join(register.read(self.cpu) for register in registers).hex().encode("ascii")

    def _write_all(self, rest: bytes) -> Answer:
        values = octets(rest)
        at = 0
        for register in self.layout.registers:
            value = values[at : at + register.bits // 8]
            at += register.bits // 8
            if len(value) * 8 != register.bits:
                break
            if value != register.read(self.cpu):
                register.write(self.cpu, value)
        return _stay(OK)

    def _read_one(self, rest: bytes) -> Answer:
        index = number(rest)
        registers = self.layout.registers
        if index >= len(registers):
            return _stay(MALFORMED)
        return _stay(registers[index].read(self.cpu).hex().encode("ascii"))

    def _write_one(self, rest: bytes) -> Answer:
        name, _, text = rest.partition(b"=")
        index = number(name)
        value = octets(text)
        registers = self.layout.registers
        if index >= len(registers) or len(value) * 8 != registers[index].bits:
            return _stay(MALFORMED)
        if value != registers[index].read(self.cpu):
            registers[index].write(self.cpu, value)
        return _stay(OK)

    # --- memory, by linear address

    def _read_memory(self, rest: bytes) -> Answer:
        linear, size = numbers(rest, 2)
        size = min(size, PACKET_SIZE // 2, max(0, self._linear_end() - linear))
        if size == 0:
            return _stay(NO_MEMORY)
        try:
            data = self.cpu.read_linear(linear, size)
        except ValueError:
            data = self._readable(linear, size)
            if not data:
                return _stay(NO_MEMORY)
        return _stay(data.hex().encode("ascii"))

    def _linear_end(self) -> int:
        return _LINEAR_END if in_long_mode(self.cpu) else _LINEAR_END_32

    def _readable(self, linear: int, size: int) -> bytes:
        """Return the bytes that can be read, up to the first page that is not mapped."""
        data = b""
        while len(data) < size:
            part = min(size - len(data), 0x1000 - (linear + len(data)) % 0x1000)
            try:
                data += self.cpu.read_linear(linear + len(data), part)
            except ValueError:
                break
        return data

    def _write_memory(self, rest: bytes) -> Answer:
        where, _, text = rest.partition(b":")
        return self._write(where, octets(text))

    def _write_binary(self, rest: bytes) -> Answer:
        where, _, data = rest.partition(b":")
        return self._write(where, data)

    def _write(self, where: bytes, data: bytes) -> Answer:
        linear, size = numbers(where, 2)
        if len(data) != size or linear + size > _LINEAR_END:
            return _stay(MALFORMED)
        if linear + size > self._linear_end():
            return _stay(NO_MEMORY)
        try:
            self.cpu.poke_linear(linear, data)
        except ValueError:
            return _stay(NO_MEMORY)
        return _stay(OK)

    # --- points that stop the guest

    def _point(self, rest: bytes) -> tuple[Kind, int, int]:
        kind, linear, size = numbers(rest.partition(b";")[0], 3)
        return Kind(kind), linear, size

    def _insert(self, rest: bytes) -> Answer:
        return _stay(OK if self.points.insert(*self._point(rest)) else NO_ROOM)

    def _remove(self, rest: bytes) -> Answer:
        self.points.remove(*self._point(rest))
        return _stay(OK)

    # --- resuming

    def _resume(self, rest: bytes, how: Next) -> Answer:
        """Resume the guest, at another address if `rest` contains one."""
        if rest:
            counter = self.layout.program_counter
            counter.write(self.cpu, number(rest).to_bytes(8, "little")[: counter.bits // 8])
        return None, how

    def _resume_signalled(self, rest: bytes) -> Answer:
        return _stay(b"")

    def _long(self, rest: bytes) -> Answer:
        if rest == b"Cont?":
            return _stay(b"vCont;c;C;s;S")
        if rest.startswith(b"Cont;"):
            # The guest is one thread, so the first action applies to it.
            action = rest[5:6]
            if action in {b"c", b"C"}:
                return None, Next.RUN
            if action in {b"s", b"S"}:
                return None, Next.STEP
            return _stay(MALFORMED)
        if rest.startswith(b"Kill"):
            return OK, Next.KILL
        return _stay(b"")

    # --- queries

    def _query(self, rest: bytes) -> Answer:
        name, _, arguments = rest.partition(b":")
        if name == b"Supported":
            return _stay(_FEATURES)
        if name == b"Xfer":
            return self._transfer(arguments)
        if rest.startswith(b"Rcmd,"):
            said = self.monitor(octets(rest[5:]).decode("utf-8", "replace"))
            return _stay(said.encode("utf-8")[: PACKET_SIZE // 2].hex().encode("ascii") or OK)
        fixed = {
            b"Attached": b"1",
            b"C": b"QC1",
            b"fThreadInfo": b"m1",
            b"sThreadInfo": b"l",
        }
        return _stay(fixed.get(name, b""))

    def _transfer(self, arguments: bytes) -> Answer:
        if not arguments.startswith(b"features:read:"):
            return _stay(b"")
        annex, _, where = arguments.removeprefix(b"features:read:").partition(b":")
        if annex != b"target.xml":
            return _stay(b"E00")
        offset, size = numbers(where, 2)
        if offset == 0:
            # From here on gdb uses the registers of this description.
            self.connected()
        whole = self._description
        part = whole[offset : offset + min(size, PACKET_SIZE // 2)]
        more = offset + len(part) < len(whole)
        return _stay((b"m" if more else b"l") + part)
