"""The front end of vhost-user-blk, with a ring and pages of its own (QEMU's vhost-user.rst).

The engine sees neither guest RAM nor the guest's ring: it shares `SLOTS` buffers with Ringlet,
which copies data between them and guest RAM.  So the device decides when guest RAM changes, and
what an image does to the engine ends there.  The ring (virtio 1.2, 2.7) is read as hostile: an
entry that fits no request ends the connection.
"""

import contextlib
import errno
import fcntl
import mmap
import os
import select
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from ringlet.devices.backends.disks import vectors
from ringlet.devices.backends.disks.interface import DROPPED, ENDLESS, Session

SLOTS: Final = 32
"""The most requests that the engine has at once."""
SLOT_BYTES: Final = 1 << 18
"""The most bytes of one of them."""

READ: Final = 0  # virtio 1.2, 5.2.6
WRITE: Final = 1
FLUSH: Final = 4
DISCARD: Final = 11
WRITE_ZEROES: Final = 13
UNMAP: Final = 1

CAN_FLUSH: Final = 1 << 9
CAN_DISCARD: Final = 1 << 13
CAN_WRITE_ZEROES: Final = 1 << 14
_READ_ONLY: Final = 1 << 5
_PROTOCOL_FEATURES: Final = 1 << 30
_VERSION_1: Final = 1 << 32
_CONFIG: Final = 1 << 9  # of the protocol

_GET_FEATURES: Final = 1
_SET_FEATURES: Final = 2
_SET_OWNER: Final = 3
_SET_MEM_TABLE: Final = 5
_SET_VRING_NUM: Final = 8
_SET_VRING_ADDR: Final = 9
_SET_VRING_BASE: Final = 10
_SET_VRING_KICK: Final = 12
_SET_VRING_CALL: Final = 13
_GET_PROTOCOL_FEATURES: Final = 15
_SET_PROTOCOL_FEATURES: Final = 16
_SET_VRING_ENABLE: Final = 18
_GET_CONFIG: Final = 24
_MESSAGE: Final = struct.Struct("<III")
_MESSAGE_VERSION: Final = 1
_IS_REPLY: Final = 4
_CONFIG_BYTES: Final = 60
_LIMITS: Final = struct.Struct("<36xIIIII")
"""Sectors of a DISCARD, its segments, its alignment, sectors and segments of a WRITE_ZEROES."""

_NEXT: Final = 1
_ENGINE_WRITES: Final = 2
_DESCRIPTOR_BYTES: Final = 16
_CHAIN: Final = struct.Struct("<QIHHQIHHQIHH")
"""Three descriptors (address, length, flags, next): head, data, status."""
_HEAD: Final = struct.Struct("<IIQ")
_SEGMENT: Final = struct.Struct("<QII")
_RING: Final = 128  # descriptors: three a request, in a power of two
_AVAILABLE: Final = 0x1000
_USED: Final = 0x2000
_HEADS: Final = 0x3000
_HEAD_BYTES: Final = 64
_STATUS: Final = 32
_DATA: Final = 0x4000
_SHARED_BYTES: Final = _DATA + SLOTS * SLOT_BYTES
_FRONT_END_ADDRESS: Final = 1 << 32
"""Where the engine is told that the front end has the shared pages; it only subtracts this."""
_MODULUS: Final = 1 << 16
_ADD_SEALS: Final = 1033  # linux/fcntl.h; Python's fcntl has it from 3.8 on, mypy does not know it
_SEALS: Final = 0x1 | 0x2 | 0x4  # no more seals, no shrinking, no growing


class ProtocolError(Exception):
    """The engine did what the protocol does not allow, or ended the connection."""


@dataclass(frozen=True, slots=True)
class Export:
    """What the engine said of the disk; sizes in bytes."""

    size: int
    features: int
    most_discarded: int
    most_zeroed: int


@dataclass(slots=True)
class Command:
    """One request to the engine, at most `SLOT_BYTES` of data; `done` gets 0 or an errno.

    One that has not begun is dropped (DROPPED) when its session is over.
    """

    kind: int
    offset: int
    length: int
    buffers: list[memoryview]
    done: Callable[[int], None]
    flags: int = 0
    session: Session = ENDLESS


class Shared:
    """The pages that the engine sees too.  Their file cannot be made shorter, not by it either."""

    def __init__(self) -> None:
        self.fd = os.memfd_create("ringlet-disk", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(self.fd, _SHARED_BYTES)
            fcntl.fcntl(self.fd, _ADD_SEALS, _SEALS)
            self.memory = mmap.mmap(self.fd, _SHARED_BYTES)
        except BaseException:
            os.close(self.fd)
            raise
        # A cast memoryview reads and writes a number in one access, which `struct` does not.
        self.numbers = memoryview(self.memory).cast("H")
        self.wide = memoryview(self.memory).cast("I")

    def close(self) -> None:
        """Give the pages back."""
        self.numbers.release()
        self.wide.release()
        self.memory.close()
        os.close(self.fd)


class Client:
    """The requests under way on `connection`, which the client closes.

    `lost` is called once, with a reason, when the connection fails; all requests under way and all
    later ones are answered EIO then.  Raises ProtocolError or OSError.
    """

    def __init__(self, connection: socket.socket, lost: Callable[[str], None], name: str) -> None:
        self._connection = connection
        self._lost = lost
        self._shared = Shared()
        self._kick = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._call = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._lock = threading.Lock()
        self._free = deque(range(SLOTS))
        self._waiting: deque[Command] = deque()
        self._running: dict[int, Command] = {}
        self._published = 0
        self._seen = 0
        self._failed = False
        self._ending = False
        try:
            self.export = self._negotiate()
        except BaseException:
            self._release()
            raise
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._thread.start()

    def _negotiate(self) -> Export:
        offered = ask_features(self._connection)
        if not offered & _PROTOCOL_FEATURES or not offered & _VERSION_1:
            raise ProtocolError("the engine does not speak vhost-user with virtio 1")
        if not _ask(self._connection, _GET_PROTOCOL_FEATURES) & _CONFIG:
            raise ProtocolError("the engine does not tell the disk's size")
        self._tell(_SET_PROTOCOL_FEATURES, struct.pack("<Q", _CONFIG))
        wanted = CAN_FLUSH | CAN_DISCARD | CAN_WRITE_ZEROES | _READ_ONLY
        features = offered & (_PROTOCOL_FEATURES | _VERSION_1 | wanted)
        self._tell(_SET_OWNER)
        self._tell(_SET_FEATURES, struct.pack("<Q", features))
        config = self._configuration()
        region = (1, 0, 0, _SHARED_BYTES, _FRONT_END_ADDRESS, 0)
        self._tell(_SET_MEM_TABLE, struct.pack("<IIQQQQ", *region), self._shared.fd)
        self._tell(_SET_VRING_NUM, struct.pack("<II", 0, _RING))
        self._tell(_SET_VRING_BASE, struct.pack("<II", 0, 0))
        rings = [_FRONT_END_ADDRESS + at for at in (0, _USED, _AVAILABLE)]
        self._tell(_SET_VRING_ADDR, struct.pack("<IIQQQQ", 0, 0, *rings, 0))
        self._tell(_SET_VRING_CALL, struct.pack("<Q", 0), self._call)
        self._tell(_SET_VRING_KICK, struct.pack("<Q", 0), self._kick)
        self._tell(_SET_VRING_ENABLE, struct.pack("<II", 0, 1))
        sectors = int.from_bytes(config[:8], "little")
        if not 0 < sectors < 1 << 53:
            raise ProtocolError("the engine tells an impossible size")
        discarded, _, _, zeroed, _ = _LIMITS.unpack_from(config)
        return Export(sectors * 512, features, discarded * 512, zeroed * 512)

    def _tell(self, number: int, payload: bytes = b"", fd: int | None = None) -> None:
        _send(self._connection, number, payload, fd)

    def _configuration(self) -> bytes:
        head = struct.pack("<III", 0, _CONFIG_BYTES, 0)
        self._tell(_GET_CONFIG, head + bytes(_CONFIG_BYTES))
        return _receive(self._connection, _GET_CONFIG, len(head) + _CONFIG_BYTES)[len(head) :]

    def submit(self, command: Command) -> None:
        """Begin `command`, without waiting for the engine."""
        with self._lock:
            failed = self._failed
            if not failed and not self._free:
                self._waiting.append(command)
                return
            slot = -1 if failed else self._free.popleft()
            if not failed:
                self._running[slot] = command
        if failed:
            command.done(errno.EIO)
        else:
            self._publish(slot, command)

    def _publish(self, slot: int, command: Command) -> None:
        """Fill in `slot`, which is the caller's alone, and give it to the engine."""
        memory = self._shared.memory
        head, data = _HEADS + slot * _HEAD_BYTES, _DATA + slot * SLOT_BYTES
        length, engine_writes = command.length, 0
        if command.kind in (DISCARD, WRITE_ZEROES):
            segment = (command.offset // 512, command.length // 512, command.flags)
            _SEGMENT.pack_into(memory, data, *segment)
            length = _SEGMENT.size
        elif command.kind == WRITE:
            vectors.write(self._shared.fd, command.buffers, data)
        elif command.kind == READ:
            engine_writes = _ENGINE_WRITES
        sector = command.offset // 512 if command.kind in (READ, WRITE) else 0
        _HEAD.pack_into(memory, head, command.kind, 0, sector)
        memory[head + _STATUS] = 0xFF
        first = 3 * slot
        _CHAIN.pack_into(
            memory, first * _DESCRIPTOR_BYTES,
            head, _HEAD.size, _NEXT, first + (1 if length else 2),
            data, length, _NEXT | engine_writes, first + 2,
            head + _STATUS, 1, _ENGINE_WRITES, 0,
        )  # fmt: skip
        with self._lock:
            numbers = self._shared.numbers
            numbers[_AVAILABLE // 2 + 2 + self._published % _RING] = first
            self._published = (self._published + 1) % _MODULUS
            numbers[_AVAILABLE // 2 + 1] = self._published  # x86 keeps the order of stores
            os.eventfd_write(self._kick, 1)

    def _serve(self) -> None:
        """Take what the engine has done until the connection ends: the client's thread."""
        reason = "a defect of Ringlet"
        try:
            poll = select.poll()
            poll.register(self._call, select.POLLIN)
            poll.register(self._connection, select.POLLIN)
            while True:
                ready = [fd for fd, _ in poll.poll()]
                if self._connection.fileno() in ready:
                    raise ProtocolError("the connection has ended")
                os.eventfd_read(self._call)
                self._take_used()
        except (ProtocolError, OSError) as error:
            reason = str(error)
        finally:
            self._fail(reason)

    def _take_used(self) -> None:
        numbers, wide = self._shared.numbers, self._shared.wide
        while (end := numbers[_USED // 2 + 1]) != self._seen:
            if (end - self._seen) % _MODULUS > SLOTS:
                raise ProtocolError("the ring has more answers than requests")
            slot, odd = divmod(wide[(_USED + 4) // 4 + 2 * (self._seen % _RING)], 3)
            self._seen = (self._seen + 1) % _MODULUS
            command = None if odd else self._running.get(slot)
            if command is None:
                raise ProtocolError("an answer in the ring fits no request")
            self._answer(slot, command)

    def _answer(self, slot: int, command: Command) -> None:
        status = self._shared.memory[_HEADS + slot * _HEAD_BYTES + _STATUS]
        if not status and command.kind == READ:
            start = _DATA + slot * SLOT_BYTES
            vectors.read(self._shared.fd, command.buffers, start, _SHARED_BYTES)
        with self._lock:
            dropped: list[Command] = []
            other = self._next(dropped)
            if other is None:
                del self._running[slot]
                self._free.append(slot)
            else:
                self._running[slot] = other
        if other is not None:
            self._publish(slot, other)
        command.done(errno.EIO if status else 0)
        for late in dropped:
            late.done(DROPPED)

    def _next(self, dropped: list[Command]) -> Command | None:
        """Return what waits for a slot, if anything does; what nobody needs goes to `dropped`."""
        while self._waiting:
            command = self._waiting.popleft()
            if not command.session.over:
                return command
            dropped.append(command)
        return None

    def _fail(self, reason: str) -> None:
        with self._lock:
            self._failed = True
            left = [*self._running.values(), *self._waiting]
            self._running.clear()
            self._waiting.clear()
            ending = self._ending and not left
        if not ending:
            self._lost(reason)
        for command in left:
            command.done(errno.EIO)

    def close(self) -> None:
        """End the connection; no request may be under way."""
        with self._lock:
            self._ending = True
        with contextlib.suppress(OSError):  # the engine was first
            self._connection.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._release()

    def _release(self) -> None:
        self._connection.close()
        os.close(self._kick)
        os.close(self._call)
        self._shared.close()


def ask_features(connection: socket.socket) -> int:
    """Return what the engine offers; it answers when it has opened the image."""
    return _ask(connection, _GET_FEATURES)


def _ask(connection: socket.socket, number: int) -> int:
    _send(connection, number)
    return int.from_bytes(_receive(connection, number, 8), "little")


def _send(
    connection: socket.socket, number: int, payload: bytes = b"", fd: int | None = None
) -> None:
    message = _MESSAGE.pack(number, _MESSAGE_VERSION, len(payload)) + payload
    socket.send_fds(connection, [message], [] if fd is None else [fd])


def _receive(connection: socket.socket, number: int, length: int) -> bytes:
    answered, flags, size = _MESSAGE.unpack(_take(connection, _MESSAGE.size))
    if (answered, flags, size) != (number, _MESSAGE_VERSION | _IS_REPLY, length):
        raise ProtocolError("a reply of the engine is invalid")
    return _take(connection, length)


def _take(connection: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length:
        part = connection.recv(length - len(data))
        if not part:
            raise ProtocolError("the connection has ended")
        data += part
    return data
