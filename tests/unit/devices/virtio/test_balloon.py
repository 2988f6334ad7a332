"""The memory balloon device (virtio 1.2, 5.5)."""

from __future__ import annotations

import struct

import pytest
from tests.unit.devices.virtio.conftest import MakeRig
from tests.unit.devices.virtio.driver import PLAIN, Rig, eventually
from tests.unit.vcpu.board import CODE, RAM

from ringlet.devices.virtio import balloon as b
from ringlet.devices.virtio.pci import VirtioPci

INFLATE, DEFLATE, STATS = 0, 1, 2
FREE = 0x300
"""Page number of memory that the test does not use."""
PAGE = 4096


@pytest.fixture
def rig(make_rig: MakeRig) -> Rig:
    rig = make_rig(b.Balloon)
    rig.start()
    rig.memory.view(FREE * PAGE, 16 * PAGE)[:] = b"\x11" * (16 * PAGE)
    return rig


def balloon(rig: Rig) -> b.Balloon:
    assert isinstance(rig.device, b.Balloon)
    return rig.device


def pages(*numbers: int) -> bytes:
    return struct.pack(f"<{len(numbers)}I", *numbers)


def zero(rig: Rig) -> list[int]:
    """Return which of the sixteen free pages are zero."""
    return [n for n in range(16) if rig.read(((FREE + n) * PAGE, PAGE)) == bytes(PAGE)]


def test_features_and_configuration(rig: Rig) -> None:
    assert rig.offered() & 0xFF == b.F_STATS_VQ | b.F_DEFLATE_ON_OOM | b.F_PAGE_REPORTING
    assert rig.config(0, 8) == 0


def test_resize_is_told(rig: Rig) -> None:
    rig.set(16, 2, 0)
    balloon(rig).resize(10 * PAGE + 1)
    assert rig.config(0, 4) == 10
    assert rig.messages == [(0xFEE0_0000, 0)]
    rig.set(4, 4, 7, 0x2000)
    assert balloon(rig).size == 7 * PAGE
    assert rig.config(4, 4) == 7
    rig.set(0, 4, 99, 0x2000)
    assert rig.config(0, 4) == 10, "the driver does not choose it"


def test_pages_become_holes(rig: Rig) -> None:
    head, _ = rig.send(INFLATE, [pages(FREE + 5, FREE, FREE + 1, FREE + 5, FREE + 2)])
    assert rig.came_back() == [(head, 0)]
    assert zero(rig) == [0, 1, 2, 5]
    assert rig.device.counters.values["bytes"] == 4 * PAGE


def test_pages_in_pieces(rig: Rig) -> None:
    numbers = pages(FREE, FREE + 1)
    rig.send(INFLATE, [numbers[:3], numbers[3:]])
    rig.came_back()
    assert zero(rig) == [0, 1]


@pytest.mark.parametrize("number", [RAM // PAGE, 0xC0000, 0x100000, 0xFFFF_FFFF])
def test_page_that_is_not_ram(rig: Rig, number: int) -> None:
    rig.send(INFLATE, [pages(FREE, number)])
    rig.came_back()
    assert zero(rig) == [0]
    assert rig.device.counters.values["not_ram"] == 1


@pytest.mark.parametrize("size", [1, 3, 4 * b.PAGES_MAX + 1, 4 * b.PAGES_MAX + 4])
def test_wrong_number_of_bytes_breaks_the_device(rig: Rig, size: int) -> None:
    rig.send(INFLATE, [bytes(size)])
    assert eventually(lambda: rig.needs_reset)
    assert f"{size} bytes of page numbers" in rig.complaints[0]


def test_deflate_is_acknowledged(rig: Rig) -> None:
    head, _ = rig.send(DEFLATE, [pages(FREE)])
    assert rig.came_back(DEFLATE) == [(head, 0)]


@pytest.mark.parametrize("queue", [3, 4])
def test_reported_pages_become_holes(rig: Rig, queue: int) -> None:
    """Drivers disagree on the queue's number where free page hints are not offered."""
    at = FREE * PAGE
    head = rig.rings[queue].chain([], [(at, 2 * PAGE), (at + 4 * PAGE + 100, 3 * PAGE), (at, 10)])
    rig.ring(queue)
    assert rig.came_back(queue) == [(head, 0)]
    assert zero(rig) == [0, 1, 5, 6], "only whole pages"


@pytest.mark.parametrize("queue", [INFLATE, 3])
def test_page_with_code_is_dropped_first_on_the_guests_thread(rig: Rig, queue: int) -> None:
    rig.board.run(bytes.fromhex("b801000000"))
    rings = rig.rings[queue]
    if queue == INFLATE:
        head = rings.chain([rig.buffer(pages(CODE // PAGE, FREE))])
    else:
        head = rings.chain([], [(CODE, PAGE), (FREE * PAGE, PAGE)])
    rig.ring(queue)
    rig.at_rest()
    assert rings.used() == []
    assert rig.read((CODE, 1)) == b"\xb8", "it is whole until its translations are gone"
    assert zero(rig) == [0]
    rig.post_all()

    assert rings.used() == [(head, 0)]
    assert rig.dropped == [(CODE, PAGE)]
    assert rig.read((CODE, PAGE)) == bytes(PAGE)
    assert not rig.memory.has_code(CODE, PAGE)


def stats(**values: int) -> bytes:
    return b"".join(
        struct.pack("<HQ", b.STATS.index(name), value) for name, value in values.items()
    )


def test_statistics(rig: Rig) -> None:
    device = balloon(rig)
    first, _ = rig.send(STATS, [stats(free=1000, total=5000)])
    assert eventually(lambda: device.statistics == {"free": 1000, "total": 5000})
    assert rig.rings[STATS].used() == [], "the buffer is kept until news are wanted"
    device.ask()
    assert rig.came_back(STATS) == [(first, 0)]
    rig.send(STATS, [stats(free=900) + struct.pack("<HQ", 99, 1) + b"rest"])
    assert eventually(lambda: device.statistics == {"free": 900, "total": 5000})


def test_driver_with_many_buffers_of_statistics(rig: Rig) -> None:
    heads = [rig.send(STATS, [stats(free=n)])[0] for n in range(5)]
    assert [head for head, _ in rig.came_back(STATS, 4)] == heads[:4]


def test_nothing_to_ask(rig: Rig) -> None:
    balloon(rig).ask()
    rig.at_rest()
    assert rig.rings[STATS].used() == []


def test_balloon_of_another_driver_is_empty(rig: Rig) -> None:
    rig.set(4, 4, 7, 0x2000)
    rig.set(20, 1, 0)
    assert balloon(rig).size == 0


def test_state_in_mid_traffic(rig: Rig) -> None:
    device = balloon(rig)
    device.resize(5 * PAGE)
    rig.set(4, 4, 3, 0x2000)
    kept, _ = rig.send(STATS, [stats(free=1)])
    assert eventually(lambda: device.statistics == {"free": 1})
    rig.device.pause()
    rig.send(INFLATE, [pages(FREE)])
    state = rig.pci.save()
    assert zero(rig) == []
    other = b.Balloon(lambda error: pytest.fail(str(error)))
    fresh = VirtioPci(other, rig.pci._around)
    fresh.restore(state)
    rig.came_back(INFLATE)
    assert zero(rig) == [0]
    assert other.read_config()[:8] == struct.pack("<II", 5, 3)
    assert eventually(lambda: other.statistics == {"free": 1})
    other.ask()
    assert rig.came_back(STATS) == [(kept, 0)]
    fresh.close()
    rig.device.resume()


def test_plain_driver(make_rig: MakeRig) -> None:
    """Without any feature there are still the two queues of the balloon."""
    rig = make_rig(b.Balloon)
    rig.start(PLAIN)
    rig.memory.view(FREE * PAGE, PAGE)[:] = b"\x11" * PAGE
    rig.send(INFLATE, [pages(FREE)])
    rig.came_back()
    assert rig.read((FREE * PAGE, PAGE)) == bytes(PAGE)
