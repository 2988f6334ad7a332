"""The 82371SB (PIIX3): the bridge from PCI to the ISA bus, and the routes of PCI interrupts.

Each of PIRQA# to PIRQD# reaches an input of the I/O APIC, and the input of the 8259 pair that the
guest chooses by the registers PIRQRC (82371SB data sheet, 2.2.7).  After a reset they are not
routed; firmware, here the constructor's caller, chooses `routes`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from ringlet.devices.pci import PciFunction, PciFunctionState, PciIdentity
from ringlet.devices.wiring import Line, SharedLine

ISA_BRIDGE: Final = PciIdentity(vendor=0x8086, device=0x7000, class_code=0x06_01_00)
PIRQS: Final = 4
PIRQRC: Final = 0x60
NOT_ROUTED: Final = 0x80
ROUTES: Final = (3, 4, 5, 6, 7, 9, 10, 11, 12, 14, 15)
"""Inputs of the 8259 pair that a PIRQ line can reach; the other values are reserved."""
_IRQ: Final = 0x0F


@dataclass(slots=True)
class Piix3State:
    """The configuration space, and which PIRQ lines are asserted."""

    function: PciFunctionState
    lines: int


class Piix3:
    """The bridge; `apic` has the lines of the I/O APIC, `isa` makes one of the 8259 pair.

    `routes` are the inputs of the 8259 pair that firmware would have chosen.
    """

    def __init__(
        self, apic: Sequence[Line], isa: Callable[[int], Line], routes: Sequence[int]
    ) -> None:
        self.function = PciFunction(ISA_BRIDGE, multifunction=True)
        self.function.add_registers(
            PIRQRC, bytes([NOT_ROUTED] * PIRQS), bytes([NOT_ROUTED | _IRQ] * PIRQS), self._rerouted
        )
        self._apic = apic
        self._isa = [SharedLine(isa(irq)) for irq in range(16)]
        self._taps = [[line.tap() for line in self._isa] for _ in range(PIRQS)]
        self._lines = 0
        self._shared = [SharedLine(self._driver(number)) for number in range(PIRQS)]
        for number, irq in enumerate(routes):
            self.function.write_config(PIRQRC + number, 1, irq)

    def tap(self, pirq: int) -> Line:
        """Return a line that drives PIRQ `pirq`, 0 to 3, along with the others."""
        return self._shared[pirq].tap()

    def save(self) -> Piix3State:
        """Return a copy of the state."""
        return Piix3State(self.function.save(), self._lines)

    def restore(self, state: Piix3State) -> None:
        """Restore `state`."""
        self.function.restore(state.function)
        self._lines = state.lines
        self._rerouted(0, 0)

    def _driver(self, number: int) -> Line:
        def drive(level: bool) -> None:
            bit = 1 << number
            self._lines = self._lines | bit if level else self._lines & ~bit
            self._apic[number](level)
            self._drive_isa(number)

        return drive

    def _rerouted(self, offset: int, size: int) -> None:
        for number in range(PIRQS):
            self._apic[number](bool(self._lines >> number & 1))
            self._drive_isa(number)

    def _drive_isa(self, number: int) -> None:
        route = self.function.get_config(PIRQRC + number, 1)
        level = bool(self._lines >> number & 1) and route in ROUTES
        for irq, tap in enumerate(self._taps[number]):
            tap(level and route == irq)
