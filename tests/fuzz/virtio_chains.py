"""Chains and rings that break a rule of virtio 1.2, 2.7, each of which a device has to refuse."""
from __future__ import annotations

import random
from collections.abc import Callable

from ringlet.devices.virtio import common
from ringlet.devices.virtio.net import RX
from ringlet.devices.virtio.queue import MAX_CHAIN
from tests.fuzz.virtio_hosts import FuzzLink
from tests.unit.devices.virtio.driver import (
    DESCRIPTOR,
    INDIRECT,
    NEXT,
    WRITE,
    Rig,
    Rings,
    eventually,
)
from tests.unit.vcpu.board import RAM

_SIZE = 16
_HEADER = 12
_TAKEN = {"block": 0, "rng": 0, "balloon": 0, "console": 3, "vsock": 1, "net": 1, "fs": 1}
"""For each kind the queue from which its device takes chains whenever it is notified."""
_AT = 0x280000
_TABLE = 0x2C0000
_PART = 64
_NOWHERE = ((RAM - 1, 2), (RAM, 1), (RAM - 8, 16), (1 << 63, 8), ((1 << 64) - 1, 1),
            ((1 << 64) - 4, 8), (_AT, RAM), (_AT, 0))


def break_a_rule(
    rng: random.Random, rig: Rig, kind: str, meanwhile: Callable[[], None] = lambda: None
) -> str:
    """Start the device, and break a rule; call `meanwhile` again and again until it is seen.

    Raises ValueError if the device does not ask for a reset.
    """
    rig._next_ring = 0x100000
    rig.start(size=_SIZE)
    index = _TAKEN[kind]
    rule = rng.choice(_RULES)
    rule(rng, rig.rings[index])
    rig.ring(index)
    _expect_failure(rig, rule.__name__, meanwhile)
    return rule.__name__.strip("_")


def place_rings_wrongly(rng: random.Random, rig: Rig) -> None:
    """Enable a queue whose rings are not in RAM, or lie over one another."""
    rig.enable_function()
    rig.negotiate()
    good = (0x100000, 0x101000, 0x102000)
    wrong = list(good)
    at = rng.randrange(3)
    sizes = (16 * _SIZE, 6 + 2 * _SIZE, 6 + 8 * _SIZE)
    step = (16, 2, 4)[at]
    wrong[at] = rng.choice((
        RAM - sizes[at] // step * step + step, RAM, 1 << 63, (1 << 64) - step, RAM - step,
        good[at - 1], good[at] + 1,
    ))
    rig.set(common.QUEUE_SELECT, 2, 0)
    rig.set(common.QUEUE_SIZE, 2, _SIZE)
    for register, place in zip(
        (common.QUEUE_DESC, common.QUEUE_DRIVER, common.QUEUE_DEVICE), wrong, strict=True
    ):
        rig.set(register, 8, place)
    rig.set(common.QUEUE_ENABLE, 2, 1)
    _expect_failure(rig, f"rings at {[hex(place) for place in wrong]}")


def receive_without_room(rng: random.Random, rig: Rig, link: FuzzLink) -> None:
    """Give a network device a buffer at the end of RAM that is too small for a header."""
    rig._next_ring = 0x100000
    rig.start(size=_SIZE)
    size = rng.randrange(1, _HEADER)
    rig.rings[RX].chain([], [(RAM - size, size)])
    rig.ring(RX)
    link.send_one()
    _expect_failure(rig, f"{size} bytes for a header")


def _expect_failure(
    rig: Rig, what: str, meanwhile: Callable[[], None] = lambda: None
) -> None:
    def refused() -> bool:
        meanwhile()
        rig.post_all()
        return rig.needs_reset

    if not eventually(refused):
        raise ValueError(f"the device accepts this: {what}")


def _beyond(rng: random.Random, rings: Rings) -> int:
    """Return the number of a descriptor behind the rings, where one is that would do."""
    index = rng.choice((64, 100, 4096, 0x8000, 0xFFFF))
    rings.describe(index, _AT, _PART)
    return index


def _head_beyond_the_table(rng: random.Random, rings: Rings) -> None:
    rings.offer(_beyond(rng, rings))


def _next_beyond_the_table(rng: random.Random, rings: Rings) -> None:
    rings.describe(0, _AT, _PART, NEXT, _beyond(rng, rings))
    rings.offer(0)


def _loop(rng: random.Random, rings: Rings) -> None:
    last = rng.randrange(_SIZE)
    for i in range(last + 1):
        rings.describe(i, _AT, _PART, NEXT, 0 if i == last else i + 1)
    rings.offer(0)


def _table_beyond_memory(rng: random.Random, rings: Rings) -> None:
    rings.view(RAM - 16, 16)[:] = DESCRIPTOR.pack(_AT, _PART, 0, 0)
    address, size = rng.choice((
        (RAM - 16, 32), (RAM, 16), (1 << 63, 16), ((1 << 64) - 16, 16), ((1 << 64) - 16, 32),
        (RAM - 16, 16 * MAX_CHAIN),
    ))
    rings.describe(0, address, size, INDIRECT)
    rings.offer(0)


def _table_of_a_wrong_size(rng: random.Random, rings: Rings) -> None:
    rings.view(_TABLE, 16)[:] = DESCRIPTOR.pack(_AT, _PART, 0, 0)
    size = rng.choice((0, 8, 15, 17, 24, 16 * MAX_CHAIN + 16, (1 << 32) - 16))
    rings.describe(0, _TABLE, size, INDIRECT)
    rings.offer(0)


def _table_in_a_table(rng: random.Random, rings: Rings) -> None:
    rings.view(_TABLE, 16)[:] = DESCRIPTOR.pack(_TABLE + 16, 16, INDIRECT, 0)
    rings.view(_TABLE + 16, 16)[:] = DESCRIPTOR.pack(_AT, _PART, 0, 0)
    rings.describe(0, _TABLE, 16, INDIRECT)
    rings.offer(0)


def _table_with_a_next_one(rng: random.Random, rings: Rings) -> None:
    rings.view(_TABLE, 16)[:] = DESCRIPTOR.pack(_AT, _PART, 0, 0)
    rings.describe(0, _TABLE, 16, INDIRECT | NEXT, 1)
    rings.describe(1, _AT, _PART)
    rings.offer(0)


def _next_beyond_a_table(rng: random.Random, rings: Rings) -> None:
    index = rng.choice((2, 3, 1000, 0xFFFF))
    rings.view(_TABLE, 16)[:] = DESCRIPTOR.pack(_AT, _PART, NEXT, index)
    place = _TABLE + 16 * index
    if place <= RAM - 16:
        rings.view(place, 16)[:] = DESCRIPTOR.pack(_AT, _PART, 0, 0)
    rings.describe(0, _TABLE, 32, INDIRECT)
    rings.offer(0)


def _buffer_beyond_memory(rng: random.Random, rings: Rings) -> None:
    address, size = rng.choice(_NOWHERE)
    rings.describe(0, address, size, rng.choice((0, WRITE)))
    rings.offer(0)


def _readable_after_writable(rng: random.Random, rings: Rings) -> None:
    rings.describe(0, _AT, _PART, WRITE | NEXT, 1)
    rings.describe(1, _AT, _PART)
    rings.offer(0)


def _too_much(rng: random.Random, rings: Rings) -> None:
    """Make a chain of nearly all of memory again and again."""
    size = RAM - 0x1000
    table = b"".join(DESCRIPTOR.pack(0, size, NEXT, i + 1) for i in range(MAX_CHAIN - 1))
    table += DESCRIPTOR.pack(0, size, 0, 0)
    rings.view(_TABLE, len(table))[:] = table
    rings.describe(0, _TABLE, len(table), INDIRECT)
    rings.offer(0)


def _more_than_entries(rng: random.Random, rings: Rings) -> None:
    rings.describe(0, _AT, _PART)
    rings.put16(rings.avail + 2, rng.choice((_SIZE + 1, 0x8000, 0xFFFF)))


_RULES: tuple[Callable[[random.Random, Rings], None], ...] = (
    _head_beyond_the_table, _next_beyond_the_table, _loop, _table_beyond_memory,
    _table_of_a_wrong_size, _table_in_a_table, _table_with_a_next_one, _next_beyond_a_table,
    _buffer_beyond_memory, _readable_after_writable, _too_much, _more_than_entries,
)  # fmt: skip
