"""A hostile driver against virtio devices: `python -m tests.fuzz.virtio --minutes 20`.

Each sample is a device with real rings, a random walk over its registers, rings, messages, resets
and state, and its host's streams.  The device must not fail, hang, spin or leave anything open.
Exit status 1 if one does.
"""
from __future__ import annotations

import random
import struct
import sys
import time
from collections import Counter, deque
from collections.abc import Callable
from itertools import pairwise

from ringlet.devices.virtio import common
from ringlet.devices.virtio.balloon import Balloon
from ringlet.devices.virtio.device import F_INDIRECT_DESC
from ringlet.devices.virtio.net import TX
from ringlet.devices.virtio.pci import COMMON, DEVICE, ISR, NOTIFY, VirtioPci
from tests.fuzz.samples import campaign
from tests.fuzz.virtio_chains import (
    break_a_rule,
    place_rings_wrongly,
    receive_without_room,
)
from tests.fuzz.virtio_devices import KINDS, SMALL, Host, make, message
from tests.unit.devices.virtio.driver import INDIRECT, NEXT, WRITE, Rig
from tests.unit.vcpu.board import CODE, RAM, Board

_STEPS = 120
_REST = 0.01
_RESTS = 50
_TURNS = 30
"""More turns of a device's thread in that time, when nothing happens, than it has a reason for."""
_LONG = 100_000_000
"""In ns: a guest that runs for longer is stopped."""
_FIELDS = (*common._SIZES.items(), *((register, 8) for register in common._ADDRESSES),
           (ISR, 1), (NOTIFY, 2), (NOTIFY + 4, 2), (DEVICE, 4), (DEVICE + 8, 4), (DEVICE + 32, 1))
"""The registers that a driver uses, with their sizes."""
_PAGES = (COMMON, ISR, DEVICE, NOTIFY)
_FREE = 0x200000
"""Memory from here to RAM's end is for buffers; the board's own is below 100000h."""
_LOOP = 0x38000
"""Where the guest's loop is; no device writes there."""


class Walk:
    """One sample."""

    def __init__(self, seed: int, kind: str = "") -> None:
        self.rng = random.Random(seed)
        self.kind = self.rng.choice(KINDS)
        self.kind = kind or self.kind
        self.failures: list[Exception] = []
        self.host: Host = make(self.rng, self.failures.append, self.kind)
        self.rig = Rig(self.host.device)
        self.refused: Counter[str] = Counter()
        self.codes = 0
        self.in_code: dict[tuple[int, int], int] = {}
        """Queues and heads of chains that begin in code, and how often the guest had run it."""
        self.knows_chains = True
        """Whether the driver knows of all chains that the device has, so that a head means one."""
        self.turns = 0
        self._turn = self.host.device.worker._turn
        self.host.device.worker._turn = self._count  # type: ignore[method-assign]

    def _count(self) -> None:
        self.turns += 1
        self._turn()

    def run(self) -> Counter[str]:
        """Take all steps; what the device counted."""
        rng = self.rng
        self._start()
        steps: tuple[tuple[Callable[[], None], int], ...] = (
            (self._chain, 30), (self._ring, 20), (self._host_acts, 20), (self._posted, 10),
            (self._register, 3), (self._scribble, 4), (self._config_space, 1), (self._msix, 3),
            (self._start, 2), (self._code, 2), (self._save, 1), (self._settle, 3),
            (self._scribble_rings, 1), (self._race, 4), (self._odd_start, 1),
            (self._reset, 1), (self._break_a_rule, 2), (self._burst, 2),
        )
        if rng.random() < 0.5:  # a driver that keeps to the rules gets further
            steps, count = tuple(step for step in steps if step[0] not in self._wild()), 3 * _STEPS
        else:
            count = _STEPS
        calls = rng.choices([s for s, _ in steps], [w for _, w in steps], k=count)
        for call in calls:
            call()
        return Counter(self.rig.device.counters.values) + self.refused

    def _wild(self) -> tuple[Callable[[], None], ...]:
        return (self._register, self._scribble_rings, self._odd_start, self._config_space,
                self._start, self._msix)

    def close(self) -> None:
        self.rig.pci.close()
        del self.host.device.worker._turn  # the class's own again; and no cycle
        self.host.close()

    # --- steps

    def _start(self) -> None:
        rng = self.rng
        self.in_code.clear()
        self.knows_chains = True
        self.rig._next_ring = 0x100000
        everything = self.rig.offered()
        features = everything & (rng.getrandbits(64) | 1 << 32) if rng.random() < 0.5 else None
        self.rig.start(features, size=rng.choice((1, 2, 8, 16, 64)), messages=rng.random() < 0.8)

    def _part(self) -> tuple[int, int]:
        rng = self.rng
        if rng.random() < 0.01:
            return rng.choice(((RAM - 1, 2), (RAM, 1), (0, RAM), (_FREE, 0), (1 << 63, 8),
                               (CODE, 64), (0xFFFFFFFFFFFFFFFF, 1), (0x100000, 512)))
        size = rng.choice((1, 8, 16, 44, 45, 100, 512, 513, 4096, 5000))
        return rng.randrange(_FREE, RAM - size), size

    def _chain(self) -> None:
        rng, rig = self.rng, self.rig
        if rig.needs_reset and rng.random() < 0.8:
            self._start()
        index = rng.randrange(len(rig.device.queue_limits))
        if self.kind == "vsock":
            index = rng.choice((0, 0, 1, 1, 1, 2))
        rings = rig.rings[index]
        self._look_at_code(index)
        data = message(rng, self.host)
        at = rng.randrange(_FREE, RAM - 0x20000)
        rig.memory.view(at, len(data) or 1)[:] = data or b"\0"
        cut = rng.choice((len(data), rng.randrange(1, len(data) + 1) if data else 1))
        readable = [(at, cut)] + ([(at + cut, len(data) - cut)] if cut < len(data) else [])
        if not data or rng.random() < 0.01 or self._is_receive(index):
            readable = []
        elif len(data) > 64 and rng.random() < 0.3:  # in more parts, of any sizes
            ends = sorted({0, len(data), *(rng.randrange(1, len(data)) for _ in range(9))})
            readable = [(at + a, b - a) for a, b in pairwise(ends)]
        writable = [self._part() for _ in range(rng.choice((0, 1, 1, 2, 5)))]
        if self.kind == "block" and rng.random() < 0.96:
            writable = [(_FREE + 0x1000 * rng.randrange(64), 512), (_FREE, 1)][rng.randrange(2):]
        elif self.kind == "net":
            writable = self._frame_room() if self._is_receive(index) else []
        elif self.kind == "fs" and rng.random() < 0.9:
            writable = [self._buffer(16), self._buffer(rng.choice((0x68, 0x1000, 0x20000)))]
        elif self.kind == "rng" and rng.random() < 0.2:
            writable = [(CODE, 64)]
        elif self.kind == "vsock" and self._is_receive(index):
            writable = [(rng.choice((CODE, rng.randrange(_FREE, RAM - 4096))), 4096)]
        if rng.random() < 0.01:
            readable.append(self._part())
        if not readable and not writable:
            return
        if self.kind == "net" and readable and rng.random() < 0.03:
            readable = [(_FREE, RAM - _FREE)]  # more than a frame
        if len(rings.free) < len(readable) + len(writable):
            self._lose_track()
            rings.free = deque(range(rings.size))  # the driver forgets what it has lent
            rings.lent.clear()
            if rings.size < len(readable) + len(writable):
                return
        tables = rig.device.driver_features & F_INDIRECT_DESC
        indirect = rng.random() < (0.3 if tables else 0.01)
        if indirect:
            head = rings.indirect(rng.randrange(_FREE, RAM - 0x1000), readable, writable)
        else:
            head = rings.chain(readable, writable)
        self.in_code.pop((index, head), None)
        # Another buffer may lie in an indirect table.
        if writable and writable[0][0] == CODE and self.knows_chains and not indirect:
            self.in_code[index, head] = self.codes
        if rng.random() < 0.7:
            rig.ring(index)

    def _lose_track(self) -> None:
        """Forget what the device has until it is started again: it may have a head twice."""
        self.in_code.clear()
        self.knows_chains = False

    def _look_at_code(self, index: int) -> None:
        """See what came back: code that a device has overwritten is not translated any more."""
        for head, written in self.rig.rings[index].used():
            if written and self.in_code.pop((index, head), -1) == self.codes:
                if self.rig.memory.has_code(CODE, 1):
                    raise ValueError("translations of what a device has overwritten are there")
                self.refused["code looked at"] += 1

    def _burst(self) -> None:
        """Offer many long frames at once."""
        rng, rig = self.rng, self.rig
        if self.kind != "net" or rig.needs_reset:
            return
        rings = rig.rings[TX]
        rings.used()
        while rings.free:
            rings.chain([self._buffer(rng.choice((1526, 65_000, 65_562, 65_570)))])
        rig.ring(TX)

    def _is_receive(self, index: int) -> bool:
        """Whether the device writes to this queue's buffers alone."""
        return {"console": index % 2 == 0, "vsock": index != 1, "balloon": index > 2,
                "rng": True, "block": False, "net": index == 0, "fs": False}[self.kind]

    def _buffer(self, size: int) -> tuple[int, int]:
        return self.rng.randrange(_FREE, RAM - size), size

    def _frame_room(self) -> list[tuple[int, int]]:
        """Return buffers for a frame, in code now and then."""
        rng = self.rng
        if rng.random() < 0.1:
            return [(CODE, 4096)]
        return [self._buffer(rng.choice((12, 64, 1526, 4096, 65_562))) for _ in range(
            rng.choice((1, 1, 2)))]

    def _ring(self) -> None:
        self.rig.ring(self.rng.randrange(len(self.rig.device.queue_limits) + 2))

    def _host_acts(self) -> None:
        self.host.act(self.rng)
        if self.kind == "balloon" and self.rng.random() < 0.2:
            assert isinstance(self.rig.device, Balloon)
            self.rig.device.resize(self.rng.randrange(RAM))
            self.rig.device.ask()

    def _posted(self) -> None:
        self.rig.post_all()

    def _settle(self) -> None:
        time.sleep(0.001)

    def _reset(self) -> None:
        """Reset the device, which then leaves memory alone whatever was under way."""
        self.rig.set(common.STATUS, 1, 0)
        self._expect_nothing("a device that was reset")
        self.rig.post_all()
        self._start()

    def _expect_nothing(self, who: str) -> None:
        """Raise ValueError if a device writes to memory or sends messages."""
        memory, messages = self.rig.memory, len(self.rig.messages)
        before = memory.read(CODE, RAM - CODE)
        self.host.act(self.rng)
        time.sleep(0.003)
        if memory.read(CODE, RAM - CODE) != before:
            raise ValueError(f"{who} writes to memory")
        if len(self.rig.messages) != messages:
            raise ValueError(f"{who} sends messages")

    def _register(self) -> None:
        """Access registers: fields as they are, or any bytes of the structures."""
        rng, rig = self.rng, self.rig
        queues = len(rig.device.queue_limits)
        for _ in range(rng.choice((1, 4, 12))):
            offset = rng.choice(_PAGES) + rng.choice((rng.randrange(64), rng.randrange(0x1000)))
            size = rng.choice((1, 2, 4, 8))
            if rng.random() < 0.7:
                offset, size = rng.choice(_FIELDS)
            if rng.random() < 0.5:
                value = rig.pci.read(offset, size)
                assert 0 <= value < 1 << 8 * size
                continue
            value = rng.choice((rng.choice(SMALL), queues, queues - 1, queues + 1,
                                rng.getrandbits(64), RAM - 16, 0x100000))
            if offset == common.STATUS and rng.random() < 0.7:
                value = rig.status | rng.choice((0, 4, 8))
            rig.pci.write(offset, size, value & (1 << 8 * size) - 1)

    def _scribble(self) -> None:
        """Change memory that buffers and indirect tables are in."""
        size = self.rng.choice((1, 16, 300))
        at = self.rng.randrange(_FREE, RAM - size)
        self.rig.memory.view(at, size)[:] = self.rng.randbytes(size)

    def _scribble_rings(self) -> None:
        """Change rings: random bytes, or descriptors that lead somewhere."""
        self._lose_track()
        rng = self.rng
        rings = self.rig.rings[rng.randrange(len(self.rig.rings))]
        if rng.random() < 0.5:
            size = rng.choice((1, 2, 16))
            at = rng.randrange(rings.table, rings.end - size)
            rings.view(at, size)[:] = rng.randbytes(size)
            return
        address, size = self._part()
        flags = rng.choice((0, NEXT, WRITE, WRITE | NEXT, INDIRECT, INDIRECT | NEXT, 0xFFFF))
        rings.describe(rng.randrange(rings.size), address, size, flags,
                       rng.choice((rng.randrange(rings.size), rng.randrange(65536))))

    def _config_space(self) -> None:
        rng, function = self.rng, self.rig.pci.function
        size = rng.choice((1, 2, 4))
        offset = rng.randrange(0, 256, size)
        function.write_config(offset, size, rng.getrandbits(8 * size))
        assert 0 <= function.read_config(offset, size) < 1 << 8 * size

    def _msix(self) -> None:
        rng, msix = self.rng, self.rig.pci.msix
        size = rng.choice((1, 2, 4, 8))
        offset = rng.choice((rng.randrange(64), rng.randrange(0x1000)))
        msix.write(offset, size, rng.choice((rng.getrandbits(8 * size), 0)))
        assert 0 <= msix.read(offset, size) < 1 << 8 * size

    def _code(self) -> None:
        """Let the guest run code where buffers may be.

        A device may put other code there in this moment, which may never halt.
        """
        board: Board = self.rig.board
        at = self.rng.choice((CODE, CODE, CODE + 0x800))
        self.rig.memory.view(at, 6)[:] = bytes.fromhex("b801000000f4")
        board.p.drop_code(at, 6)
        board.set(rip=at)
        board.p.set_alarm(time.monotonic_ns() + _LONG)
        board.go()
        board.p.set_alarm(None)
        self.codes += 1

    def _race(self) -> None:
        """Let the guest change rings while the device's threads use them.

        Each place is changed and changed back, so that the rings are as before at the end.
        """
        self._lose_track()
        rng, rig = self.rng, self.rig
        index = rng.randrange(len(rig.rings))
        rings = rig.rings[index]
        place, mask = rng.choice((
            (rings.table + 16 * rng.randrange(rings.size), rng.choice((RAM, 1 << 63, 0x1000))),
            (rings.table + 16 * rng.randrange(rings.size) + 8,
             rng.choice((1 << 31, 0xFFFF, NEXT << 32, WRITE << 32, INDIRECT << 32, 3 << 48))),
            (rings.avail, rng.choice((1 << 16, 1 << 20, 1 << 31, 1, 1 << 40))),
            (rings.used_ring, rng.choice((1, 1 << 16, 1 << 31))),
            (rng.randrange(_FREE, RAM - 8), rng.getrandbits(64)),
        ))
        times = 2 * rng.choice((1000, 50_000))
        code = (b"\x48\xc7\xc1" + struct.pack("<I", times) + b"\x48\xbf" + struct.pack("<Q", place)
                + b"\x48\xb8" + struct.pack("<Q", mask) + b"\x48\x31\x07\x48\xff\xc9\x75\xf8\xf4")
        rig.memory.view(_LOOP, len(code))[:] = code
        rig.board.p.drop_code(_LOOP, len(code))
        rig.ring(index)
        rig.board.set(rip=_LOOP)
        rig.board.go()

    def _odd_start(self) -> None:
        """Set queues up wrongly: sizes, places, features and order."""
        self._lose_track()
        rng, rig = self.rng, self.rig
        if rng.random() < 0.7:
            rig.negotiate(rig.offered() & rng.choice((rng.getrandbits(64), 1 << 32, (1 << 64) - 1)))
        for index in range(len(rig.device.queue_limits)):
            if rng.random() < 0.2:
                continue
            rig.set(common.QUEUE_SELECT, 2, index)
            rig.set(common.QUEUE_SIZE, 2, rng.choice((1, 2, 16, 16, 0, 3, 1024, 0x8000, 0xFFFF)))
            for register in (common.QUEUE_DESC, common.QUEUE_DRIVER, common.QUEUE_DEVICE):
                place = rng.choice((0x100000 + 16 * rng.randrange(0x400), CODE + 0xC00, RAM - 16,
                                    RAM - 0x100, 0x100001, 1 << 63, (1 << 64) - 16, RAM))
                rig.set(register, 8, place)
            rig.set(common.QUEUE_ENABLE, 2, rng.choice((1, 1, 1, 0, 0xFFFF)))
            rig.ring(index)
        rig.driver_ok()
        self._posted()

    def _break_a_rule(self) -> None:
        if self._link_lost():
            return  # the device takes no chains any more
        try:
            self._break_one()
        except ValueError:
            if not self._link_lost():
                raise
        self._start()

    def _link_lost(self) -> bool:
        return "link_lost" in self.rig.device.counters.values

    def _break_one(self) -> None:
        link = self.host.link
        if link is not None and link.whole and self.rng.random() < 0.2:
            receive_without_room(self.rng, self.rig, link)
        elif self.rng.random() < 0.2:
            place_rings_wrongly(self.rng, self.rig)
        else:
            meanwhile = link.take_all if link is not None else lambda: None
            self.refused[break_a_rule(self.rng, self.rig, self.kind, meanwhile)] += 1

    def _save(self) -> None:
        """Save the state, and let another device go on with it for a moment."""
        device, pci = self.rig.device, self.rig.pci
        device.pause()
        state = pci.save()
        self._expect_nothing("a device at rest")
        other = make(random.Random(1), self.failures.append, self.kind)
        other.device.features = device.features
        fresh = VirtioPci(other.device, pci._around)
        before = self.rig.memory.read(0x100000, 0x80000)
        try:
            fresh.restore(state)
            fresh.write(common.STATUS, 1, 0)
        finally:
            fresh.close()
            other.close()
        self.rig.memory.view(0x100000, 0x80000)[:] = before
        device.resume()  # not before: what it writes to its rings meanwhile would be lost


def _comes_to_rest(walk: Walk) -> bool:
    """Return whether the device has nothing to do at last, when nothing happens."""
    for _ in range(_RESTS):
        time.sleep(_REST)
        before, cpu = walk.turns, time.process_time()
        time.sleep(_REST)
        if walk.turns - before <= _TURNS and time.process_time() - cpu <= _REST / 2:
            return True
    return False


def run_sample(seed: int, kind: str = "") -> tuple[Counter[str], list[str]]:
    """Run one sample; what it reached and what it broke."""
    broken: list[str] = []
    reached: Counter[str] = Counter()
    walk = Walk(seed, kind)
    name = walk.kind
    try:
        reached = Counter({f"{name} {k}": n for k, n in walk.run().items()})
        for _ in range(5):  # what waits for the device must not keep it busy
            walk.host.act(walk.rng)
        if not _comes_to_rest(walk):
            broken.append(f"{name}: a thread spins")
    except Exception as error:  # noqa: BLE001 - it is a finding
        broken.append(f"{type(error).__name__}: {error}")
    finally:
        walk.close()
    broken += [f"its thread: {type(error).__name__}: {error}" for error in walk.failures]
    return reached, broken


def main(arguments: list[str] | None = None) -> int:
    """Run samples for a time; the exit status."""
    return campaign("tests.fuzz.virtio", "Let a hostile driver use virtio devices.", run_sample,
                    KINDS, arguments)


if __name__ == "__main__":
    sys.exit(main())
