"""The power management function of the 82371AB (PIIX4): where the fixed ACPI hardware is.

The registers themselves are `ringlet.devices.acpi_pm`, at a fixed place.
"""

from typing import Final

from ringlet.devices.pci import PciFunction, PciIdentity

POWER_MANAGEMENT: Final = PciIdentity(
    vendor=0x8086, device=0x7113, class_code=0x06_80_00, revision=3
)
_PMBA: Final = 0x40
_PMREGMISC: Final = 0x80
_IO_SPACE: Final = 1
_ENABLED: Final = 1


def power_management(base: int) -> PciFunction:
    """Return the function; `base` is the first port of the fixed ACPI hardware."""
    function = PciFunction(POWER_MANAGEMENT, interrupt_pin=1)
    function.add_registers(_PMBA, (base | _IO_SPACE).to_bytes(4, "little"), bytes(4))
    function.add_registers(_PMREGMISC, bytes([_ENABLED]), b"\0")
    return function
