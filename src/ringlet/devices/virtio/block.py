"""The block device (virtio 1.2, 5.2): passes the driver's requests to a disk of the host.

A request is checked on the device's thread; the disk performs it, on threads of its own, straight
from and to guest RAM.
"""

import errno
import struct
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Final

from ringlet.devices.backends.disks.interface import (
    ROOM_SECONDS,
    Disk,
    Operation,
    Request,
    Session,
)
from ringlet.devices.virtio.buffers import gather, scatter, split_tail
from ringlet.devices.virtio.device import VirtioDevice
from ringlet.devices.virtio.queue import Chain, Queue
from ringlet.devices.virtio.room import Room
from ringlet.errors import InternalError

SECTOR: Final = 512
"""The unit of all positions and lengths, whatever the disk's own sectors are (5.2.4)."""
QUEUE_SIZE: Final = 256
MANY: Final = 4
"""While more requests than this are under way, the device's thread itself waits for reads."""
SEGMENTS: Final = 254
"""The most buffers of a request besides its header and status."""
RANGES: Final = 32
"""The most ranges of one discard or write-zeroes request."""
RANGE_SECTORS: Final = 1 << 22
"""The most sectors of such a range: 2 GiB."""
COMPANY: Final = 64
"""How many requests are taken to have company after one that others had to wait for."""

F_SEG_MAX: Final = 1 << 2
F_RO: Final = 1 << 5
F_BLK_SIZE: Final = 1 << 6
F_FLUSH: Final = 1 << 9
F_TOPOLOGY: Final = 1 << 10
F_CONFIG_WCE: Final = 1 << 11
F_DISCARD: Final = 1 << 13
F_WRITE_ZEROES: Final = 1 << 14

# Request types and statuses (5.2.6)
T_IN, T_OUT, T_FLUSH, T_GET_ID, T_DISCARD, T_WRITE_ZEROES = 0, 1, 4, 8, 11, 13
S_OK, S_IOERR, S_UNSUPP = 0, 1, 2
_HEADER: Final = struct.Struct("<IIQ")
_RANGE: Final = struct.Struct("<QII")
_UNMAP: Final = 1
_IDENTITY: Final = 20

_CONFIG: Final = struct.Struct("<QII HBB I BBHI BBH III II B3x")
_WCE: Final = 32  # offset of `writeback`


@dataclass(slots=True)
class BlockState:
    """Whether the driver has chosen write-back caching."""

    writeback: bool


class Block(VirtioDevice):
    """The device; who made it closes `disk` after it."""

    kind: ClassVar[int] = 2
    class_code: ClassVar[int] = 0x01_80_00

    def __init__(
        self,
        disk: Disk,
        failed: Callable[[Exception], None],
        name: str = "disk0",
        room_seconds: float = ROOM_SECONDS,
    ) -> None:
        super().__init__(name, [QUEUE_SIZE], failed)
        self._disk = disk
        self._room = Room(disk.submit, room_seconds, failed)
        self._writeback = True
        self._session = Session()
        self._later: deque[Callable[[], None]] = deque()
        self._under_way = 0
        self._company = 0
        self._idle = threading.Condition()
        self.features = F_SEG_MAX | F_BLK_SIZE | F_FLUSH | F_TOPOLOGY | F_CONFIG_WCE
        if disk.read_only:
            self.features |= F_RO
        else:
            self.features |= F_WRITE_ZEROES | (F_DISCARD if disk.discards else 0)

    # --- configuration

    def read_config(self) -> bytes:
        """Return virtio_blk_config (5.2.4)."""
        sector = self._disk.sector
        each = sector // SECTOR
        return _CONFIG.pack(
            self._disk.size // SECTOR, 0, SEGMENTS, 0, 0, 0, sector, 0, 0, 1, 0,
            self._writeback, 0, 1, RANGE_SECTORS, RANGES, each, RANGE_SECTORS, RANGES, 1,
        )  # fmt: skip

    def write_config(self, offset: int, data: bytes) -> None:
        """Let the driver choose write-back or write-through caching."""
        if offset <= _WCE < offset + len(data) and self.has(F_CONFIG_WCE):
            self._writeback = bool(data[_WCE - offset] & 1)

    # --- requests

    def serve(self, queue: Queue, chain: Chain) -> None:
        """Begin the request of a chain."""
        if not chain.writable_size:
            self.fail("a request without room for its status")
            return
        if len(chain.readable) + len(chain.writable) > SEGMENTS + 2:
            self.fail("a request of more buffers than were allowed")
            return
        header, data = gather(chain.readable, _HEADER.size)
        room, status = split_tail(chain.writable, 1)
        if len(header) < _HEADER.size:
            self.fail(f"a request of {len(header)} bytes")
            return
        kind, _, sector = _HEADER.unpack(header)
        answer = partial(self._answer, queue, chain, status)
        if kind == T_IN:
            done = partial(answer, chain.writable_size)
            self._begin(Request(Operation.READ, sector * SECTOR, 0, room, done), queue)
        elif kind == T_OUT:
            done = partial(answer, 1)
            self._begin(Request(Operation.WRITE, sector * SECTOR, 0, data, done), queue)
        elif kind == T_FLUSH:
            self._submit_first(Request(Operation.FLUSH, 0, 0, [], partial(answer, 1)), queue)
        elif kind == T_GET_ID:
            name = self._disk.identity.encode()[:_IDENTITY].ljust(_IDENTITY, b"\0")
            scatter(name, room)
            answer(chain.writable_size, 0)
        elif kind == T_DISCARD and self.has(F_DISCARD):
            self._ranges(Operation.DISCARD, data, partial(answer, 1))
        elif kind == T_WRITE_ZEROES and self.has(F_WRITE_ZEROES):
            self._ranges(Operation.WRITE_ZEROES, data, partial(answer, 1))
        else:
            answer(1, errno.EOPNOTSUPP)

    def _begin(self, request: Request, queue: Queue) -> None:
        """Begin a read or a write of all its buffers."""
        request.length = sum(map(len, request.buffers))
        if self._wrong(request.offset, request.length):
            request.done(errno.EINVAL)
            return
        operation = request.operation
        self.counters.add(f"{operation.value}s")
        self.counters.add(f"bytes_{operation.value}", request.length)
        request.fua = operation is Operation.WRITE and not (
            self._writeback and self.has(F_FLUSH)
        )
        self._submit_first(request, queue)

    def _submit_first(self, request: Request, queue: Queue) -> None:
        """Submit `request`, and let the disk know whether it is alone.

        The thread may then wait for the disk.  If another request came meanwhile, which had to
        wait, those that follow are not said to be alone.
        """
        alone = not (self._under_way or self._company or queue.has_more)
        request.alone = alone
        self._submit(request)
        if alone and queue.has_more:
            self._company = COMPANY
        elif self._company:
            self._company -= 1

    def _wrong(self, offset: int, length: int) -> bool:
        sector = self._disk.sector
        return bool(offset % sector or length % sector) or offset + length > self._disk.size

    def _ranges(
        self, operation: Operation, data: list[memoryview], done: Callable[[int], None]
    ) -> None:
        """Begin a request for several ranges, which succeeds if all of them do."""
        payload, _ = gather(data, RANGES * _RANGE.size)
        wanted = []
        if not payload or sum(map(len, data)) != len(payload) or len(payload) % _RANGE.size:
            done(errno.EINVAL)
            return
        for sector, sectors, flags in _RANGE.iter_unpack(payload):
            unmap = bool(flags & _UNMAP)
            if flags & ~_UNMAP or (unmap and operation is Operation.DISCARD):
                done(errno.EOPNOTSUPP)
                return
            if sectors > RANGE_SECTORS or self._wrong(sector * SECTOR, sectors * SECTOR):
                done(errno.EINVAL)
                return
            wanted.append((sector * SECTOR, sectors * SECTOR, unmap))
        self.counters.add("discards" if operation is Operation.DISCARD else "write_zeroes")
        _InTurn(operation, wanted, self._submit, done).one_done(0)

    def _submit(self, request: Request) -> None:
        with self._idle:
            self._under_way += 1
        request.done = partial(self._ended, request, request.done)
        request.session = self._session
        if request.operation is Operation.READ and self._under_way > MANY:
            request.later = self._later.append
        self._disk.submit(request)

    def _ended(self, request: Request, done: Callable[[int], None], error: int) -> None:
        """Finish a request, unless it is tried again when there is room."""
        if error == errno.ENOSPC and self._room.waits(request):
            self.counters.add("waits_for_room")
            return
        request.done = _over  # else the request is in a cycle, which keeps the guest's RAM
        self._room.ended(request, error)
        self._finish(done, error)

    def _finish(self, done: Callable[[int], None], error: int) -> None:
        try:
            done(error)
        finally:
            with self._idle:
                self._under_way -= 1
                if not self._under_way:
                    self._idle.notify_all()

    def _answer(
        self, queue: Queue, chain: Chain, status: list[memoryview], written: int, error: int
    ) -> None:
        if self._session.over:
            return  # nobody waits for it
        if error:
            self.counters.add("errors")
        unsupported = error in {errno.EOPNOTSUPP, errno.ENOSYS}
        code = S_UNSUPP if unsupported else S_IOERR if error else S_OK
        status[0][0] = code
        # The status is behind all other bytes.
        self.give(queue, chain, written, touched=chain.writable_size)

    # --- rest

    def do_later(self) -> bool:
        """Wait for one of many reads."""
        if not self._later:
            return False
        self._later.popleft()()
        return True

    def give_up(self) -> None:
        """Let the disk drop what it has not done."""
        self._session.over = True

    def settle(self) -> None:
        """Wait for the requests that the disk still performs: they write to guest RAM."""
        while self.do_later():
            pass
        self._room.hurry()
        with self._idle:
            self._idle.wait_for(lambda: not self._under_way)
        self._room.relax()

    def stopped(self) -> None:
        """Begin anew, with write-back caching."""
        self._session = Session()
        self._writeback = True

    def save(self) -> BlockState:
        """Return a copy of the state."""
        return BlockState(self._writeback)

    def restore(self, state: object) -> None:
        """Restore `state`."""
        assert isinstance(state, BlockState)
        self._writeback = state.writeback


def _over(error: int) -> None:
    """Stand for the end of a request that has ended."""
    raise InternalError("a request ended twice", {"error": error})


class _InTurn:
    """Performs an operation for ranges, one after another, up to the first error.

    So a request of the driver is one of the disk at any time, and cannot exceed what that takes.
    """

    def __init__(
        self,
        operation: Operation,
        ranges: list[tuple[int, int, bool]],
        submit: Callable[[Request], None],
        done: Callable[[int], None],
    ) -> None:
        self._operation = operation
        self._ranges = iter(ranges)
        self._submit = submit
        self._done = done

    def one_done(self, error: int) -> None:
        """Begin the next range, unless the one before had an error or was the last."""
        following = None if error else next(self._ranges, None)
        if following is None:
            self._done(error)
            return
        offset, length, unmap = following
        self._submit(Request(self._operation, offset, length, [], self.one_done, unmap=unmap))
