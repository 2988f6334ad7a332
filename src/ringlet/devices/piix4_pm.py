"""The power management function of the 82371AB (PIIX4): where the fixed ACPI hardware answers.

The registers there are `ringlet.devices.acpi_pm`.  The guest moves them by PMBA and lets them
answer by PMREGMISC (82371AB data sheet, 7.2.1 and 7.2.13), whatever the command register says.
After a reset they do not answer: firmware, here the constructor's caller, gives them a place.
"""

from collections.abc import Callable
from typing import Final

from ringlet.devices.pci import PciFunction, PciFunctionState, PciIdentity

POWER_MANAGEMENT: Final = PciIdentity(
    vendor=0x8086, device=0x7113, class_code=0x06_80_00, revision=3
)
PORTS: Final = 64
PMBA: Final = 0x40
PMREGMISC: Final = 0x80
IO_SPACE: Final = 1 << 0  # of PMBA, read-only
ENABLE: Final = 1 << 0  # of PMREGMISC: PMIOSE
_BASE: Final = 0xFFC0


class Piix4Pm:
    """The function; `moved` is called with the first of the PORTS ports that answer now, or None.

    The guest chooses the ports, which may be those of other devices.
    """

    def __init__(self, moved: Callable[[int | None], None]) -> None:
        self._moved = moved
        self._reported: int | None = None
        self.function = PciFunction(POWER_MANAGEMENT, interrupt_pin=1)
        self.function.add_registers(
            PMBA, IO_SPACE.to_bytes(4, "little"), _BASE.to_bytes(4, "little"), self._written
        )
        self.function.add_registers(PMREGMISC, b"\0", bytes([ENABLE]), self._written)

    def place(self, base: int) -> None:
        """Let the hardware answer from port `base` on, a multiple of PORTS, as firmware does."""
        self.function.write_config(PMBA, 4, base)
        self.function.write_config(PMREGMISC, 1, ENABLE)

    def save(self) -> PciFunctionState:
        """Return a copy of the state."""
        return self.function.save()

    def restore(self, state: PciFunctionState) -> None:
        """Restore `state` and report the place."""
        self.function.restore(state)
        self._written(0, 0)

    def _written(self, offset: int, size: int) -> None:
        enabled = self.function.get_config(PMREGMISC, 1) & ENABLE
        base = self.function.get_config(PMBA, 4) & _BASE if enabled else None
        if base != self._reported:
            self._reported = base
            self._moved(base)
