"""Split queues against virtio 1.2, 2.7, and drivers that break its rules."""

import random
import struct

import pytest
from tests.unit.devices.virtio.driver import INDIRECT, NEXT, WRITE, Rings
from tests.unit.vcpu.board import CODE, RAM, Board

from ringlet.devices.virtio.queue import MAX_BYTES, MAX_CHAIN, MAX_SIZE, Chain, Queue, QueueError
from ringlet.vcpu.processor import Processor

RING = 0x100000
BUFFER = 0x200000
TABLE = 0x300000
SIZE = 8


class Pair:
    """Both sides of a queue."""

    def __init__(self, size: int = SIZE, *, events: bool = False, tables: bool = False) -> None:
        self.board = Board()
        self.memory = self.board.p.guest_memory()
        self.rings = Rings(self.board, RING, size)
        self.queue = Queue(self.memory, 0, 1024)
        self.queue.size = size
        self.queue.descriptors = self.rings.table
        self.queue.available = self.rings.avail
        self.queue.used = self.rings.used_ring
        self.queue.event_index = events
        self.queue.indirect = tables
        self.queue.enable()

    def popped(self) -> Chain:
        chain = self.queue.pop()
        assert chain is not None
        return chain

    def wrong(self) -> str:
        """Return what the queue says about the next chain."""
        with pytest.raises(QueueError) as caught:
            self.queue.pop()
        return str(caught.value)


def sizes(views: list[memoryview]) -> list[int]:
    return [len(view) for view in views]


# --- setting up


@pytest.mark.parametrize("limit", [0, -1, 3, 12, MAX_SIZE * 2, 65536])
def test_limit_is_a_power_of_two_in_bounds(limit: int) -> None:
    with pytest.raises(ValueError, match="power of two"):
        Queue(Board().p.guest_memory(), 0, limit)


@pytest.mark.parametrize("size", [0, 3, 6, 7, 100, 2048, 65535, -4])
def test_size_must_be_a_power_of_two_up_to_the_limit(size: int) -> None:
    pair = Pair()
    pair.queue.reset()
    pair.queue.size = size
    with pytest.raises(QueueError, match="entries"):
        pair.queue.enable()
    assert not pair.queue.enabled


@pytest.mark.parametrize("size", [1, 2, 1024])
def test_sizes_at_the_limits_are_taken(size: int) -> None:
    pair = Pair(size)
    pair.rings.chain([(BUFFER, 4)])
    assert pair.popped().head == 0


RING_SIZES = {"descriptors": 16 * SIZE, "available": 6 + 2 * SIZE, "used": 6 + 8 * SIZE}
ALIGNMENTS = {"descriptors": 16, "available": 2, "used": 4}


@pytest.mark.parametrize("ring", list(RING_SIZES))
def test_ring_must_be_aligned(ring: str) -> None:
    pair = Pair()
    setattr(pair.queue, ring, getattr(pair.queue, ring) + ALIGNMENTS[ring] // 2)
    with pytest.raises(QueueError, match="ring at guest physical"):
        pair.queue.enable()


@pytest.mark.parametrize("ring", list(RING_SIZES))
@pytest.mark.parametrize(
    "beyond", [RAM, RAM + 0x1000, 0xC000_0000, 1 << 32, 1 << 52, (1 << 64) - 16]
)
def test_ring_outside_ram_is_refused(ring: str, beyond: int) -> None:
    pair = Pair()
    setattr(pair.queue, ring, beyond)
    with pytest.raises(QueueError, match="ring at guest physical"):
        pair.queue.enable()


@pytest.mark.parametrize("ring", list(RING_SIZES))
def test_ring_may_end_where_ram_ends_and_no_later(ring: str) -> None:
    pair = Pair()
    last = (RAM - RING_SIZES[ring]) // ALIGNMENTS[ring] * ALIGNMENTS[ring]
    setattr(pair.queue, ring, last)
    pair.queue.enable()
    setattr(pair.queue, ring, last + ALIGNMENTS[ring])
    with pytest.raises(QueueError, match="ring at guest physical"):
        pair.queue.enable()


def test_disabled_queue_does_nothing() -> None:
    pair = Pair()
    pair.rings.chain([(BUFFER, 4)])
    chain = pair.popped()
    before = pair.memory.read(RING, 0x1000)
    pair.queue.reset()

    assert pair.queue.pop() is None
    assert not pair.queue.arm()
    assert not pair.queue.wants_interrupt()
    pair.queue.disarm()
    pair.queue.push(chain, 4)
    assert pair.memory.read(RING, 0x1000) == before


# --- chains


def test_empty_queue_has_no_chain() -> None:
    assert Pair().queue.pop() is None


def test_chain_has_its_buffers_in_order() -> None:
    pair = Pair()
    pair.memory.view(BUFFER, 6)[:] = b"abcdef"
    pair.rings.chain([(BUFFER, 2), (BUFFER + 2, 4)], [(BUFFER + 0x100, 8), (BUFFER + 0x200, 1)])
    chain = pair.popped()

    assert [bytes(view) for view in chain.readable] == [b"ab", b"cdef"]
    assert sizes(chain.writable) == [8, 1]
    assert (chain.readable_size, chain.writable_size) == (6, 9)
    chain.writable[1][0] = 7
    assert pair.memory.read(BUFFER + 0x200, 1) == b"\x07"


def test_descriptors_may_be_in_any_order() -> None:
    pair = Pair()
    pair.rings.describe(6, BUFFER, 1, NEXT, 2)
    pair.rings.describe(2, BUFFER, 2, NEXT, 7)
    pair.rings.describe(7, BUFFER, 3, WRITE)
    pair.rings.offer(6)
    chain = pair.popped()

    assert (chain.head, sizes(chain.readable), sizes(chain.writable)) == (6, [1, 2], [3])


def test_readable_buffers_cannot_be_written() -> None:
    """The device's code cannot write where it only may read by mistake, as it has two lists."""
    pair = Pair()
    pair.rings.chain([(BUFFER, 4)], [(BUFFER + 0x100, 4)])
    chain = pair.popped()
    assert len(chain.readable) == len(chain.writable) == 1


@pytest.mark.parametrize("index", [SIZE, SIZE + 1, 0x7FFF, 0xFFFF])
def test_head_beyond_the_table(index: int) -> None:
    pair = Pair()
    pair.rings.offer(index)
    assert pair.wrong() == f"descriptor {index} of {SIZE}"


@pytest.mark.parametrize("index", [SIZE, 0xFFFF])
def test_next_beyond_the_table(index: int) -> None:
    pair = Pair()
    pair.rings.describe(0, BUFFER, 4, NEXT, index)
    pair.rings.offer(0)
    assert pair.wrong() == f"descriptor {index} of {SIZE}"


@pytest.mark.parametrize("loop", [[0], [0, 1], [3, 1, 5, 0]])
def test_loop_ends(loop: list[int]) -> None:
    pair = Pair()
    for i, index in enumerate(loop):
        pair.rings.describe(index, BUFFER, 4, NEXT, loop[(i + 1) % len(loop)])
    pair.rings.offer(loop[0])
    assert "does not end" in pair.wrong()


@pytest.mark.parametrize("jump", [SIZE + 1, 100, 0x8000, 0xFFFF])
def test_more_available_than_entries(jump: int) -> None:
    pair = Pair()
    pair.rings.put16(pair.rings.avail + 2, jump)
    assert "more chains are available" in pair.wrong()


def test_as_many_available_as_entries() -> None:
    pair = Pair()
    for _ in range(SIZE):
        pair.rings.chain([(BUFFER, 1)])
    assert [pair.popped().head for _ in range(SIZE)] == list(range(SIZE))
    assert pair.queue.pop() is None


@pytest.mark.parametrize(
    ("address", "size"),
    [
        (RAM, 1),
        (RAM - 1, 2),
        (RAM - 4096, 4097),
        (0xC000_0000, 4),
        (1 << 32, 4),
        ((1 << 64) - 1, 1),
        ((1 << 64) - 4, 8),
        (0, 0x3FFF_FFFF),
        (BUFFER, 0),
        (RAM, 0),
    ],
)
@pytest.mark.parametrize("flags", [0, WRITE])
def test_buffer_outside_ram_or_empty(address: int, size: int, flags: int) -> None:
    pair = Pair()
    pair.rings.describe(0, address, size, flags)
    pair.rings.offer(0)
    assert f"a buffer of {size} bytes" in pair.wrong()


@pytest.mark.parametrize(("address", "size"), [(0, 1), (RAM - 1, 1), (0, RAM), (RAM - 4096, 4096)])
def test_buffer_at_the_ends_of_ram(address: int, size: int) -> None:
    pair = Pair()
    pair.rings.describe(0, address, size, WRITE)
    pair.rings.offer(0)
    assert sizes(pair.popped().writable) == [size]


HIGH = 1 << 32
HIGH_SIZE = 4 << 20


def with_a_hole(address: int, size: int) -> Queue:
    """Return a queue whose next chain is one buffer, in RAM with a hole below 4 GiB."""
    memory = Processor((3 << 30) + HIGH_SIZE).guest_memory()
    queue = Queue(memory, 0, 8)
    queue.descriptors, queue.available, queue.used = 0x1000, 0x2000, 0x3000
    memory.view(0x1000, 16)[:] = struct.pack("<QIHH", address, size, WRITE, 0)
    memory.view(0x2000, 6)[:] = struct.pack("<HHH", 0, 1, 0)
    queue.enable()
    return queue


@pytest.mark.parametrize(
    ("address", "size"), [(0xC000_0000 - 8, 8), (HIGH, 8), (HIGH + HIGH_SIZE - 8, 8)]
)
def test_buffer_beside_the_hole(address: int, size: int) -> None:
    chain = with_a_hole(address, size).pop()
    assert chain is not None
    assert chain.places == [(address, size)]


@pytest.mark.parametrize(
    ("address", "size"),
    [(0xC000_0000 - 8, 9), (0xC000_0000, 1), (HIGH - 1, 2), (HIGH + HIGH_SIZE - 8, 9)],
)
def test_buffer_in_the_hole(address: int, size: int) -> None:
    queue = with_a_hole(address, size)
    with pytest.raises(QueueError, match="a buffer of"):
        queue.pop()


def test_readable_after_writable() -> None:
    pair = Pair()
    pair.rings.describe(0, BUFFER, 4, WRITE | NEXT, 1)
    pair.rings.describe(1, BUFFER, 4)
    pair.rings.offer(0)
    assert pair.wrong() == "a readable buffer after a writable one"


def test_bytes_of_a_chain_are_bounded() -> None:
    """A table may name the same memory again and again."""
    pair = Pair(1024)
    count = MAX_BYTES // RAM + 1
    for i in range(count):
        pair.rings.describe(i, 0, RAM, WRITE | (NEXT if i < count - 1 else 0), i + 1)
    pair.rings.offer(0)
    assert "too long" in pair.wrong()


def test_chain_stays_as_it_was_taken() -> None:
    pair = Pair()
    pair.rings.chain([(BUFFER, 4)], [(BUFFER + 0x100, 4)])
    chain = pair.popped()
    pair.rings.describe(0, 0xFFFF_FFFF, 0x1000, WRITE)

    pair.queue.push(chain, 2)
    assert pair.rings.used() == [(0, 2)]
    assert sizes(chain.readable) == [4]


# --- indirect tables


def test_indirect_chain() -> None:
    pair = Pair(tables=True)
    pair.rings.indirect(TABLE, [(BUFFER, 2)], [(BUFFER, 3), (BUFFER, 4)])
    chain = pair.popped()
    assert (sizes(chain.readable), sizes(chain.writable)) == ([2], [3, 4])


def test_indirect_table_may_be_larger_than_the_queue() -> None:
    pair = Pair(1, tables=True)
    pair.rings.indirect(TABLE, [(BUFFER, 1)] * MAX_CHAIN)
    assert pair.popped().readable_size == MAX_CHAIN


def test_direct_descriptors_before_an_indirect_one() -> None:
    """2.7.5.3.2 forbids only VIRTQ_DESC_F_NEXT beside VIRTQ_DESC_F_INDIRECT."""
    pair = Pair(tables=True)
    pair.memory.view(TABLE, 16)[:] = struct.pack("<QIHH", BUFFER, 5, WRITE, 0)
    pair.rings.describe(0, BUFFER, 4, NEXT, 1)
    pair.rings.describe(1, TABLE, 16, INDIRECT)
    pair.rings.offer(0)
    chain = pair.popped()
    assert (chain.readable_size, chain.writable_size) == (4, 5)


def test_indirect_without_the_feature() -> None:
    pair = Pair()
    pair.rings.indirect(TABLE, [(BUFFER, 2)])
    assert pair.wrong() == "an indirect table where none may be"


def test_indirect_in_indirect() -> None:
    pair = Pair(tables=True)
    pair.rings.describe(0, TABLE, 16, INDIRECT)
    pair.memory.view(TABLE, 16)[:] = struct.pack("<QIHH", TABLE, 16, INDIRECT, 0)
    pair.rings.offer(0)
    assert pair.wrong() == "an indirect table where none may be"


def test_indirect_with_next() -> None:
    pair = Pair(tables=True)
    pair.rings.describe(0, TABLE, 16, INDIRECT | NEXT, 1)
    pair.rings.offer(0)
    assert pair.wrong() == "an indirect table where none may be"


@pytest.mark.parametrize("size", [0, 1, 15, 17, 31, 16 * (MAX_CHAIN + 1), 0xFFFF_FFF0])
def test_indirect_table_of_a_wrong_size(size: int) -> None:
    pair = Pair(tables=True)
    pair.rings.describe(0, TABLE, size, INDIRECT)
    pair.rings.offer(0)
    assert pair.wrong() == f"an indirect table of {size} bytes"


@pytest.mark.parametrize("address", [RAM, RAM - 16, 0xC000_0000, (1 << 64) - 16])
def test_indirect_table_outside_ram(address: int) -> None:
    pair = Pair(tables=True)
    pair.rings.describe(0, address, 32, INDIRECT)
    pair.rings.offer(0)
    assert "an indirect table at guest physical" in pair.wrong()


def test_next_beyond_an_indirect_table() -> None:
    pair = Pair(tables=True)
    pair.memory.view(TABLE, 32)[:] = struct.pack("<QIHH", BUFFER, 1, NEXT, 2) * 2
    pair.rings.describe(0, TABLE, 32, INDIRECT)
    pair.rings.offer(0)
    assert pair.wrong() == "descriptor 2 of 2"


def test_loop_in_an_indirect_table() -> None:
    pair = Pair(tables=True)
    pair.memory.view(TABLE, 16)[:] = struct.pack("<QIHH", BUFFER, 1, NEXT, 0)
    pair.rings.describe(0, TABLE, 16, INDIRECT)
    pair.rings.offer(0)
    assert "does not end" in pair.wrong()


# --- the used ring


def test_used_entries_wrap_with_the_ring_and_the_index() -> None:
    pair = Pair(2)
    pair.queue.taken = pair.queue.given = 0xFFFD
    pair.rings.available = pair.rings.seen = 0xFFFD
    pair.rings.put16(pair.rings.avail + 2, 0xFFFD)
    pair.rings.put16(pair.rings.used_ring + 2, 0xFFFD)
    for turn in range(7):
        head = pair.rings.chain([], [(BUFFER, 64)])
        chain = pair.popped()
        pair.queue.push(chain, turn)
        assert pair.rings.used() == [(head, turn)]
    assert (pair.queue.taken, pair.queue.given) == (4, 4)


def test_written_is_at_most_the_room() -> None:
    pair = Pair()
    pair.rings.chain([], [(BUFFER, 64)])
    pair.queue.push(pair.popped(), 1 << 40)
    assert pair.rings.used() == [(0, 64)]


def test_chains_may_come_back_in_any_order() -> None:
    pair = Pair()
    heads = [pair.rings.chain([(BUFFER, 1)]) for _ in range(3)]
    chains = [pair.popped() for _ in range(3)]
    for i in (2, 0, 1):
        pair.queue.push(chains[i], 0)
    assert [head for head, _ in pair.rings.used()] == [heads[2], heads[0], heads[1]]


# --- notifications (2.7.7, 2.7.8, 2.7.10)


def test_flag_of_the_device() -> None:
    pair = Pair()
    flags = pair.rings.used_ring
    pair.queue.disarm()
    assert pair.rings.get16(flags) == 1
    assert not pair.queue.arm()
    assert pair.rings.get16(flags) == 0
    pair.rings.chain([(BUFFER, 1)])
    assert pair.queue.arm()


def test_event_index_of_the_device() -> None:
    pair = Pair(events=True)
    event = pair.rings.used_ring + 4 + 8 * SIZE
    pair.rings.chain([(BUFFER, 1)])
    pair.rings.chain([(BUFFER, 1)])
    pair.popped()
    assert pair.queue.arm()
    assert pair.rings.get16(event) == 1
    pair.queue.disarm()
    assert pair.rings.get16(pair.rings.used_ring) == 0


def test_flag_of_the_driver() -> None:
    pair = Pair()
    pair.rings.put16(pair.rings.avail, 1)
    for wanted in (False, True):
        pair.rings.chain([(BUFFER, 1)])
        pair.queue.push(pair.popped(), 0)
        assert pair.queue.wants_interrupt() is wanted
        assert not pair.queue.wants_interrupt(), "nothing was pushed since"
        pair.rings.put16(pair.rings.avail, 0)


@pytest.mark.parametrize("events", [False, True])
def test_no_interrupt_without_a_chain_that_came_back(events: bool) -> None:
    pair = Pair(events=events)
    assert not pair.queue.wants_interrupt()
    pair.rings.chain([(BUFFER, 1)])
    pair.queue.push(pair.popped(), 0)
    assert pair.queue.wants_interrupt()


def needs_event(event: int, new: int, old: int) -> bool:
    """vring_need_event of the specification (2.7.10.1)."""
    return (new - event - 1) & 0xFFFF < (new - old) & 0xFFFF


def test_event_index_of_the_driver_is_the_specifications() -> None:
    pair = Pair(1024, events=True)
    rng = random.Random(3)
    queue, rings = pair.queue, pair.rings
    start = 0xFF00
    queue.taken = queue.given = start
    rings.available = rings.seen = start
    rings.put16(rings.avail + 2, start)
    rings.put16(rings.used_ring + 2, start)
    event_place = rings.avail + 4 + 2 * 1024
    rings.chain([(BUFFER, 1)])
    queue.push(pair.popped(), 0)
    assert queue.wants_interrupt(), "the first time after the start, always"
    answers = set()
    for _ in range(500):
        old = queue.given
        count = rng.randrange(1, 5)
        event = (old + rng.randrange(-4, 8)) & 0xFFFF
        rings.put16(event_place, event)
        for _ in range(count):
            rings.chain([(BUFFER, 1)])
            queue.push(pair.popped(), 0)
        rings.used()
        wants = queue.wants_interrupt()
        assert wants is needs_event(event, queue.given, old)
        answers.add(wants)
    assert answers == {False, True}


# --- code pages


def test_code_that_was_written_is_found() -> None:
    pair = Pair()
    pair.board.run(bytes.fromhex("b801000000"))  # mov eax, 1
    pair.rings.chain([], [(CODE - 8, 8), (CODE, 16), (CODE + 0x1000, 8)])
    chain = pair.popped()

    assert pair.queue.code_written(chain, 0) == []
    assert pair.queue.code_written(chain, 8) == []
    assert pair.queue.code_written(chain, 9) == [(CODE, 1)]
    assert pair.queue.code_written(chain, 32) == [(CODE, 16)]
    pair.board.p.drop_code(CODE, 16)
    assert pair.queue.code_written(chain, 32) == []


def test_what_is_written_to_code_is_run() -> None:
    """The translation of the old instruction is gone when the chain comes back."""
    pair = Pair()
    pair.board.run(bytes.fromhex("b801000000"))
    pair.rings.chain([], [(CODE, 5)])
    chain = pair.popped()
    chain.writable[0][:] = bytes.fromhex("b802000000")
    for address, size in pair.queue.code_written(chain, 5):
        pair.board.p.drop_code(address, size)
    pair.queue.push(chain, 5)
    pair.board.set(rip=CODE)
    pair.board.go()

    assert pair.board.get("rax") == 2
