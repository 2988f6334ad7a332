"""What all devices have in common: chains go back in order, stops and pauses, translated code."""

from __future__ import annotations

import threading

import pytest
from tests.unit.devices.virtio.conftest import MakeRig
from tests.unit.devices.virtio.driver import EVENTS, PLAIN, Rig, eventually
from tests.unit.devices.virtio.echo import Echo
from tests.unit.vcpu.board import CODE

from ringlet.devices.virtio.pci import COMPLAINTS, VirtioPci


@pytest.fixture
def rig(make_rig: MakeRig) -> Rig:
    return make_rig(Echo)


def echo(rig: Rig) -> Echo:
    assert isinstance(rig.device, Echo)
    return rig.device


def make_code(rig: Rig) -> None:
    """Let the guest run `mov eax, 1` at CODE."""
    rig.board.run(bytes.fromhex("b801000000"))
    assert rig.memory.has_code(CODE, 1)


def test_chain_comes_back_with_a_message(rig: Rig) -> None:
    rig.start(PLAIN)
    head, (room,) = rig.send(0, [b"hello"], [16])

    assert rig.came_back() == [(head, 5)]
    assert rig.read(room, 5) == b"hello"
    assert eventually(lambda: rig.messages == [(0xFEE0_0000, 1)])


def test_each_queue_has_its_vector(rig: Rig) -> None:
    rig.start(PLAIN)
    rig.send(1, [b"x"], [1])
    rig.came_back(1)
    assert eventually(lambda: rig.messages == [(0xFEE0_0000, 2)])


def test_chains_that_were_there_before_driver_ok_are_served(rig: Rig) -> None:
    rig.enable_function()
    rig.negotiate(PLAIN)
    rig.set_up(0)
    rig.send(0, [b"early"], [8])
    rig.at_rest()
    assert echo(rig).served == 0
    rig.driver_ok()
    assert rig.came_back() == [(0, 5)]


@pytest.mark.parametrize("features", [PLAIN, EVENTS])
def test_no_notification_is_lost_in_much_traffic(rig: Rig, features: int) -> None:
    """The driver notifies as the device asks; with event index, only when it passes the event."""
    rig.start(features)
    rings = rig.rings[0]
    part, room = rig.buffer(b"data"), rig.buffer(4)
    back = 0
    for turn in range(3000):
        rings.chain([part], [room])
        old = rings.available - 1 & 0xFFFF
        event = rings.get16(rings.used_ring + 4 + 8 * rings.size)
        flags = rings.get16(rings.used_ring)
        wanted = not flags & 1
        if features == EVENTS:
            wanted = (rings.available - event - 1) & 0xFFFF < (rings.available - old) & 0xFFFF
        if wanted:
            rig.ring(0)
        if len(rings.free) < 2 or turn % 7 == 0:
            back += len(rig.came_back(0, 1))
    while back < 3000:
        back += len(rig.came_back(0, 1))
    assert echo(rig).served == 3000


def test_broken_queue_asks_for_a_reset_once(rig: Rig) -> None:
    rig.start(PLAIN)
    rig.rings[0].offer(9999)
    rig.ring(0)
    assert eventually(lambda: rig.needs_reset)
    rig.send(0, [b"x"], [1])
    rig.at_rest()

    assert echo(rig).served == 0
    assert len(rig.complaints) == 1
    assert "echo: queue 0: descriptor 9999 of 16" in rig.complaints[0]
    assert (0xFEE0_0000, 0) not in rig.messages, "the driver chose no vector for this"


def test_reset_mends_a_broken_device(rig: Rig) -> None:
    rig.start(PLAIN)
    rig.rings[0].offer(9999)
    rig.ring(0)
    assert eventually(lambda: rig.needs_reset)
    rig.start(PLAIN)
    head, _ = rig.send(0, [b"again"], [5])
    assert rig.came_back() == [(head, 5)]


def test_complaints_end_when_a_driver_goes_on_and_on(rig: Rig) -> None:
    for turn in range(30):
        rig._next_ring = 0x100000
        rig.start(PLAIN)
        rig.rings[0].offer(9999)
        rig.ring(0)
        assert eventually(lambda: rig.needs_reset), turn
    assert len(rig.complaints) == COMPLAINTS
    assert "no more of this is shown" in rig.complaints[-1]


# --- code


def test_chain_with_code_comes_back_when_the_code_is_dropped(rig: Rig) -> None:
    rig.start(PLAIN)
    make_code(rig)
    new = bytes.fromhex("b802000000")
    head = rig.rings[0].chain([rig.buffer(new)], [(CODE, 5)])
    rig.ring(0)
    rig.at_rest()
    assert rig.rings[0].used() == [], "only the guest's thread drops translations"
    rig.post_all()

    assert rig.rings[0].used() == [(head, 5)]
    assert rig.dropped == [(CODE, 5)]
    assert not rig.memory.has_code(CODE, 1)
    rig.board.set(rip=CODE)
    rig.board.go()
    assert rig.board.get("rax") == 2


def test_later_chains_do_not_overtake_one_with_code(rig: Rig) -> None:
    rig.start(PLAIN)
    make_code(rig)
    heads = [rig.rings[0].chain([rig.buffer(b"\x90" * 5)], [(CODE, 5)])]
    heads += [rig.rings[0].chain([rig.buffer(b"x")], [rig.buffer(1)]) for _ in range(3)]
    rig.ring(0)
    rig.at_rest()
    assert rig.rings[0].used() == []
    rig.post_all()

    assert [head for head, _ in rig.rings[0].used()] == heads
    assert rig.messages[-1:] == [(0xFEE0_0000, 1)]


def test_one_call_is_posted_for_many_chains_with_code(rig: Rig) -> None:
    rig.start(PLAIN)
    make_code(rig)
    for _ in range(5):
        rig.rings[0].chain([rig.buffer(b"\x90")], [(CODE, 1)])
    rig.ring(0)
    rig.at_rest()
    assert len(rig.posted) == 1
    rig.post_all()
    assert len(rig.rings[0].used()) == 5


def test_reset_forgets_chains_that_wait_for_the_guests_thread(rig: Rig) -> None:
    rig.start(PLAIN)
    make_code(rig)
    rig.rings[0].chain([rig.buffer(b"\x90")], [(CODE, 1)])
    rig.ring(0)
    rig.at_rest()
    before = rig.rings[0]
    rig._next_ring = 0x140000
    rig.start(PLAIN)
    rig.post_all()

    assert before.used() == []
    assert rig.rings[0].used() == []


def test_pause_gives_back_what_waits_for_the_guests_thread(rig: Rig) -> None:
    rig.start(PLAIN)
    make_code(rig)
    head = rig.rings[0].chain([rig.buffer(b"\x90")], [(CODE, 1)])
    rig.ring(0)
    rig.at_rest()
    rig.device.pause()
    assert rig.rings[0].used() == [(head, 1)]
    rig.device.resume()
    rig.post_all()
    assert rig.rings[0].used() == []


# --- stops


def test_reset_waits_for_the_devices_thread(rig: Rig) -> None:
    rig.start(PLAIN)
    device = echo(rig)
    device.gate.acquire()
    rig.send(0, [b"x"], [1])
    assert eventually(lambda: device.came == 1)
    release = threading.Timer(0.05, device.gate.release)
    release.start()
    rig.set(20, 1, 0)

    assert not device.gate.locked()
    assert rig.status == 0
    assert device.stops >= 1
    release.join()


def test_nothing_happens_between_pause_and_resume(rig: Rig) -> None:
    rig.start(PLAIN)
    rig.device.pause()
    head, _ = rig.send(0, [b"x"], [1])
    rig.device.worker.call(lambda: None)
    assert not eventually(lambda: bool(rig.rings[0].waits()), 0.02)
    rig.device.resume()
    assert rig.came_back() == [(head, 1)]


def test_chain_given_back_after_a_reset_is_lost(rig: Rig) -> None:
    rig.start(PLAIN)
    device = echo(rig)
    device.keep = True
    rig.send(0, [b"x"], [1])
    assert eventually(lambda: len(device.kept) == 1)
    ((queue, chain),) = device.kept
    rings = rig.rings[0]
    rig.set(20, 1, 0)
    device.answer(queue, chain)
    assert rings.used() == []


def test_close_ends_the_thread(rig: Rig) -> None:
    rig.start(PLAIN)
    rig.pci.close()
    assert not any(t.name == "echo" and t.is_alive() for t in threading.enumerate())


# --- state


def test_state_goes_on_in_another_machine(rig: Rig) -> None:
    """No chain and no message is lost or doubled."""
    rig.start(EVENTS)
    first, _ = rig.send(0, [b"one"], [8])
    assert rig.came_back() == [(first, 3)]
    rig.device.pause()
    second, (room,) = rig.send(0, [b"second"], [8])
    state = rig.pci.save()
    rig.messages.clear()
    other = Echo(lambda error: pytest.fail(str(error)))
    fresh = VirtioPci(other, rig.pci._around)
    fresh.restore(state)

    assert eventually(lambda: rig.rings[0].waits() == 1)
    assert rig.rings[0].used() == [(second, 6)]
    assert rig.read(room, 6) == b"second"
    assert eventually(lambda: rig.messages == [(0xFEE0_0000, 1)])
    assert other.served == 1
    fresh.close()
    rig.device.resume()


def test_interrupt_without_messages_survives_a_save(rig: Rig) -> None:
    rig.start(PLAIN, messages=False)
    rig.send(0, [b"x"], [1])
    rig.at_rest()
    rig.device.pause()
    assert rig.posted
    state = rig.pci.save()
    rig.device.resume()
    assert state.isr == 1
    assert state.function.interrupt
