"""Layouts of BARs and MSI-X tables: `python -m tests.fuzz.layouts --minutes 20`.

Configuration space by mechanism 1; BARs moved over one another, over RAM, over the interrupt
controllers and beyond all memory; MSI-X tables and messages, with a device's thread that triggers
them meanwhile; accesses wherever a BAR is or was, by the buses and by the guest's own code.
Nothing may raise or hang; each value has the size that was asked for; BARs answer where their
registers say, messages go out or wait as the table says; and a driver that then sets a function up
properly finds its device.  Exit status 1 if not.
"""
from __future__ import annotations

import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import partial

from ringlet.devices import pci
from ringlet.devices.msix import BAR_SIZE, ENABLE, FUNCTION_MASK, PBA
from ringlet.devices.pci import BarKind
from ringlet.devices.virtio import common
from ringlet.devices.virtio.pci import (
    MSIX_BAR,
    NOTIFY,
    NOTIFY_MULTIPLIER,
    STRUCTURES_BAR,
    STRUCTURES_SIZE,
    VirtioPci,
)
from ringlet.machine import address_map as at
from tests.fuzz.pci_guest import ring_by_code, run_code
from tests.fuzz.pci_machine import DATA, Machine
from tests.fuzz.samples import campaign

_STEPS = 600
_PATIENCE = 10.0
_PLACES = (0xC000_0000, 0xFEC0_0000, 0xFEE0_0000, 0, 0x1000, 1 << 32, 0xFFFF_F000, 0x1234_5000,
           0x30_0000, 0x3F_F000, 0x40_0000, 0xFEBF_F000, 0xFEDF_F000, 0xFEE0_1000, 0xFFFF_FFFF)
_HALVES = (0, 0, 0, 0, 1, 0xF, 0xF_FFFF, 0x3FFF, 0xFFFF_FFFF)
_NO_VECTOR = 0xFFFF
_TABLE = {MSIX_BAR: (BarKind.MEMORY_32, BAR_SIZE),
          STRUCTURES_BAR: (BarKind.MEMORY_64, STRUCTURES_SIZE)}


class Walk:
    """One sample."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.machine = Machine()
        self.reached: Counter[str] = Counter()

    def run(self) -> list[str]:
        """Take all steps, and return what is not as it should be at the end."""
        steps: tuple[tuple[Callable[[], None], int], ...] = (
            (self._config, 20), (self._move, 8), (self._overlay, 8), (self._memory, 30),
            (self._code, 12), (self._message, 6), (self._trigger_meanwhile, 4),
            (self._decoding, 4), (self._capability, 4), (self._window, 3), (self._host, 1),
        )
        calls = self.rng.choices([s for s, _ in steps], [w for _, w in steps], k=_STEPS)
        for call in calls:
            call()
            self.machine.work()
            self.reached[call.__name__.strip("_")] += 1
        broken = self._recover()
        counters = self.machine.processor.counters()
        for name in ("doorbells", "mmio_reads", "mmio_writes", "device_ops"):
            self.reached[name] += counters.get(name, 0)
        self.reached["messages"] += len(self.machine.messages)
        return broken

    # --- accesses

    def _device(self) -> VirtioPci:
        return self.rng.choice(self.machine.devices)

    def _config(self) -> None:
        rng, machine = self.rng, self.machine
        size = rng.choice((1, 2, 4))
        if rng.random() < 0.7:
            slot = rng.choice((rng.randrange(32), rng.randrange(7), rng.randrange(7)))
            machine.select(slot, rng.choice((0, 0, 0, 3, 7)), rng.randrange(256))
        else:
            machine.ports.write(at.PORT_PCI_CONFIG, 4, rng.getrandbits(32))
        port = rng.choice((DATA, DATA, DATA, at.PORT_PCI_CONFIG)) + rng.randrange(4)
        if rng.random() < 0.5:
            machine.ports.write(port, size, rng.choice((rng.getrandbits(8 * size), 0, 2, 6)))
        else:
            _fits(f"port {port:#x}", machine.ports.read(port, size), size)

    def _move(self) -> None:
        rng, machine = self.rng, self.machine
        slot = machine.slot(self._device())
        machine.set_config(slot, pci.BAR0 + 4 * rng.randrange(6), 4,
                           rng.choice((*_PLACES, *_HALVES)))
        machine.set_config(slot, pci.COMMAND, 2, rng.choice((0, 2, 6, 6, 7, 0xFFFF)))

    def _overlay(self) -> None:
        """Lay a BAR over another one, wholly or in part, or over a fixed place."""
        rng, machine = self.rng, self.machine
        other = self._device().function.bar_address(rng.choice(tuple(_TABLE)))
        place = (other if other and rng.random() < 0.6 else rng.choice(_PLACES))
        place += rng.choice((0, 0, -0x1000, 0x1000, 0x3000, -0x4000))
        slot, index = machine.slot(self._device()), rng.choice(tuple(_TABLE))
        machine.set_config(slot, pci.BAR0 + 4 * index, 4, place & 0xFFFF_FFFF)
        if index == STRUCTURES_BAR:
            high = place >> 32 & 0xFFFF_FFFF if rng.random() < 0.7 else rng.choice(_HALVES)
            machine.set_config(slot, pci.BAR0 + 4 * index + 4, 4, high)
        machine.set_config(slot, pci.COMMAND, 2, 6)

    def _place(self) -> int:
        rng = self.rng
        place = rng.choice(_PLACES)
        if rng.random() < 0.8:
            index = rng.choice((MSIX_BAR, STRUCTURES_BAR))
            place = self._device().function.bar_address(index) or place
        return place + rng.choice((0, 0, 0x1000, 0x2000, 0x3000))

    def _memory(self) -> None:
        rng, machine = self.rng, self.machine
        size = rng.choice((1, 2, 4, 8))
        place = self._place() + rng.choice((rng.randrange(64), rng.randrange(0x1000), 0xFFF, 0xFFE,
                                            PBA, PBA - 4))
        if rng.random() < 0.5:
            value = rng.choice((rng.getrandbits(8 * size), 0, 1, 0xFEE0_0000))
            machine.memory.write(place, size, value & (1 << 8 * size) - 1)
        else:
            _fits(f"memory at {place:#x}", machine.memory.read(place, size), size)

    def _code(self) -> None:
        kind = run_code(self.machine, self.rng, self._place())
        self.reached[f"code {kind}"] += 1

    def _capability(self) -> None:
        """Write the control word of MSI-X, all of it or a byte."""
        rng, machine, device = self.rng, self.machine, self._device()
        control = device.msix._offset + 2
        size = rng.choice((1, 2, 2))
        value = rng.choice((ENABLE, ENABLE, ENABLE | FUNCTION_MASK, 0, 0xFFFF, rng.getrandbits(16)))
        machine.set_config(machine.slot(device), control + (size == 1 and rng.randrange(2)), size,
                           value & (1 << 8 * size) - 1)

    def _window(self) -> None:
        """Access a BAR through the window in configuration space (virtio 1.2, 4.1.4.9)."""
        rng, machine, device = self.rng, self.machine, self._device()
        slot, body = machine.slot(device), device._window
        for offset, size, value in (
            (4, 1, rng.choice((STRUCTURES_BAR, STRUCTURES_BAR, STRUCTURES_BAR, 0, 5, 255))),
            (8, 4, rng.choice((rng.randrange(64), rng.randrange(0x5000), 0x3FFC, 0xFFFF_FFFC))),
            (12, 4, rng.choice((1, 2, 4, 4, 0, 3, 8, 1 << 31))),
        ):
            machine.set_config(slot, body + offset, size, value)
        if rng.random() < 0.5:
            machine.set_config(slot, body + 16, rng.choice((1, 2, 4)), rng.getrandbits(8))
        else:
            _fits("the window", machine.config(slot, body + 16, 4), 4)

    def _host(self) -> None:
        self.machine.link.act(self.rng)

    # --- messages

    def _entry(self, device: VirtioPci, vector: int) -> tuple[int, int, bool]:
        """Return an entry's address and data, and whether it is masked, as the guest reads them."""
        read = device.msix.read
        return (read(16 * vector, 8), read(16 * vector + 8, 4), bool(read(16 * vector + 12, 4) & 1))

    def _message(self) -> None:
        """Change an entry, trigger it on the guest's thread, and look what becomes of it."""
        rng, machine, device = self.rng, self.machine, self._device()
        _at_rest(device)
        machine.work()
        vectors = len(device.device.queue_limits) + 1
        vector = rng.choice((rng.randrange(vectors), rng.randrange(vectors), vectors, _NO_VECTOR))
        if vector < vectors:
            for word, value in enumerate((
                rng.choice((0xFEE0_0000, 0xFEE0_100C, 0xFEE0_1000, 0xFEEF_FFFC, 0xFEF0_0000, 0)),
                rng.choice((0, 0, 0, 0, 0, 1, 0xFFFF_FFFF)),
                rng.choice((0x31, 0x4000 | rng.randrange(256), rng.getrandbits(32))),
                rng.choice((0, 0, 0, 1, 0xFFFF_FFFF)),
            )):
                if rng.random() < 0.8:
                    device.msix.write(16 * vector + 4 * word, 4, value)
        if rng.random() < 0.6:  # as a driver has it
            slot = machine.slot(device)
            machine.set_config(slot, pci.COMMAND, 2, rng.choice((6, 6, 2)))
            machine.set_config(slot, device.msix._offset + 2, 2, ENABLE)
        machine.messages.clear()
        control = machine.config(machine.slot(device), device.msix._offset + 2, 2)
        device.msix.trigger(vector)
        sent = list(machine.messages)
        waits = vector < vectors and bool(device.msix.read(PBA, 8) >> vector & 1)
        if vector >= vectors or not control & ENABLE:
            _check("a message that is none", sent == [])
            return
        address, data, masked = self._entry(device, vector)
        masked |= bool(control & FUNCTION_MASK)
        goes = device.function.bus_master and address >> 20 == 0xFEE and not masked
        _check("a masked message", waits == masked)
        _check("a message", sent == ([(address, data)] if goes else []))
        self.reached["pending" if masked else "sent" if goes else "lost"] += 1

    def _trigger_meanwhile(self) -> None:
        """Let a device's thread trigger messages while the guest changes the table and BARs."""
        rng, device = self.rng, self._device()
        vectors = [rng.randrange(len(device.device.queue_limits) + 2) for _ in range(20)]

        def trigger() -> None:
            for vector in vectors:
                device.msix.trigger(vector)
                device.interrupt(vector % len(device.device.queue_limits))
            device.config_changed()

        device.device.worker.call(trigger)
        for _ in range(rng.randrange(20)):
            rng.choice((self._capability, self._memory, self._overlay, self._config))()

    # --- what must hold

    def _decoding(self) -> None:
        """Compare where BARs answer with their registers."""
        machine = self.machine
        places = []
        for device in machine.devices:
            for index, (kind, size) in _TABLE.items():
                base = machine.bar(device, index, kind)
                known = device.function.bar_address(index)
                if base is not None and base + size == kind.limit:
                    base = None
                _check(f"BAR {index} at {known} and not {base}", base == known)
                if base is not None:
                    places.append((base, base + size, device, index))
        fixed = (at.IO_APIC, at.IO_APIC + at.IO_APIC_SIZE)
        for base, end, device, index in places:
            alone = sum(base < e and b < end for b, e, *_ in places) == 1
            if index == STRUCTURES_BAR and alone and not (base < fixed[1] and fixed[0] < end):
                found = machine.memory.read(base + common.QUEUES, 2)
                _check(f"{found} queues", found == len(device.device.queue_limits))
                self.reached["decoded"] += 1

    def _recover(self) -> list[str]:
        """Set all functions up; what is not as it was in the beginning."""
        machine = self.machine
        for device in machine.devices:
            machine.set_config(machine.slot(device), pci.COMMAND, 2, 0)
        broken = []
        for device in machine.devices:
            slot, name = machine.slot(device), device.device.name
            address = at.DEVICE_HOLE + slot * 0x10_0000
            machine.set_config(slot, pci.BAR0 + 4 * STRUCTURES_BAR, 4, address)
            machine.set_config(slot, pci.BAR0 + 4 * STRUCTURES_BAR + 4, 4, 0)
            machine.set_config(slot, pci.BAR0 + 4 * MSIX_BAR, 4, address + 0x8000)
            machine.set_config(slot, pci.COMMAND, 2, 6)
            machine.memory.write(address + common.STATUS, 1, 0)
            found = machine.memory.read(address + common.QUEUES, 2)
            if found != len(device.device.queue_limits):
                broken.append(f"{name} has {found} queues at {address:#x}")
            if machine.config(slot, 0, 2) != 0x1AF4:
                broken.append(f"{name} lost its identity")
            broken += self._rings(device, address)
        return broken

    def _rings(self, device: VirtioPci, base: int) -> list[str]:
        """Let the guest notify each queue, and see that the device's thread hears of it."""
        _at_rest(device)
        device.device.running = False
        broken = []
        for queue in range(len(device.device.queue_limits)):
            before = device.device.counters.values.get("notifications", 0)
            rung = self.machine.processor.counters()["doorbells"]
            ring_by_code(self.machine, base + NOTIFY + NOTIFY_MULTIPLIER * queue, queue)
            _at_rest(device)
            if device.device.counters.values.get("notifications", 0) == before:
                broken.append(f"{device.device.name} does not hear of queue {queue}")
            if self.machine.processor.counters()["doorbells"] == rung:
                broken.append(f"{device.device.name} has no doorbell for queue {queue}")
        return broken


def _at_rest(device: VirtioPci) -> None:
    """Return when a device's thread has done what it was asked for."""
    end = time.monotonic() + _PATIENCE
    for _ in range(2):
        done: list[None] = []
        device.device.worker.call(partial(done.append, None))
        while not done:
            if time.monotonic() > end:
                raise ValueError("the device's thread does not answer")
            time.sleep(0.0001)


def _fits(what: str, value: int, size: int) -> None:
    if not 0 <= value < 1 << 8 * size:
        raise ValueError(f"{what} returns more than {size} bytes")


def _check(what: str, right: bool) -> None:
    if not right:
        raise ValueError(f"{what} is wrong")


def run_sample(seed: int, kind: str = "") -> tuple[Counter[str], list[str]]:
    """Run one sample; what it reached and what it broke."""
    del kind
    walk = Walk(seed)
    try:
        broken = walk.run()
    except Exception as error:  # noqa: BLE001 - it is a finding
        broken = [f"{type(error).__name__}: {error}"]
    finally:
        walk.machine.close()
    return walk.reached, broken + [f"a thread: {error!r}" for error in walk.machine.failures]


def main(arguments: list[str] | None = None) -> int:
    """Run samples for a time; the exit status."""
    return campaign("tests.fuzz.layouts", "Lay out BARs and MSI-X tables in any way.", run_sample,
                    arguments=arguments)


if __name__ == "__main__":
    sys.exit(main())
