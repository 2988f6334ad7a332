"""The host bridge of PCI bus 0, an Intel 82441FX.

It has configuration mechanism 1 (PCI 3.0, 3.2.2.3.2).

The memory from C0000h to FFFFFh is always RAM, so the registers that choose between RAM and ROM
there (PAM0 to PAM6) and SMRAM are stored without effect.

Only 32-bit accesses to CF8h reach CONFIG_ADDRESS.  Narrower accesses belong to other devices at
ports CF8h to CFBh; on a PC that is the reset control register at CF9h.
"""

from dataclasses import dataclass
from typing import Final

from ringlet.devices.pci import PciFunction, PciFunctionState, PciIdentity
from ringlet.devices.wiring import PortDevice
from ringlet.errors import InternalError

PORTS: Final = 8  # CF8h to CFFh, which take 4 bytes at once
SLOTS: Final = 32
FUNCTIONS: Final = 8

CONFIG_ENABLE: Final = 1 << 31
_ADDRESS_BITS: Final = 0x80FF_FFFC
_DATA: Final = 4
_RESET_CONTROL: Final = 1

# The 82441FX (PMC) of the 440FX chip set
HOST_BRIDGE: Final = PciIdentity(vendor=0x8086, device=0x1237, class_code=0x06_00_00, revision=2)
_PAM: Final = 0x59
_PAM_COUNT: Final = 7
_SMRAM: Final = 0x72


@dataclass(slots=True)
class PciHostState:
    """CONFIG_ADDRESS and the bridge's own state."""

    address: int
    bridge: PciFunctionState


class PciHost:
    """Bus 0 with the bridge itself at 00:00.0.  Its state does not include other functions."""

    def __init__(self, reset_control: PortDevice | None = None) -> None:
        self._reset_control = reset_control
        self._address = 0
        self._bridge = PciFunction(HOST_BRIDGE)
        self._bridge.add_registers(_PAM, bytes(_PAM_COUNT), b"\xf0" + b"\xff" * (_PAM_COUNT - 1))
        self._bridge.add_registers(_SMRAM, b"\x02", b"\x78")
        self._functions: dict[int, PciFunction] = {0: self._bridge}

    def add(self, slot: int, function: PciFunction, number: int = 0) -> None:
        """Put a function in `slot`, 1 to 31, as function `number`.

        Raises InternalError if the place is occupied or does not exist.
        """
        place = slot * FUNCTIONS + number
        if not (0 <= slot < SLOTS and 0 <= number < FUNCTIONS) or place in self._functions:
            raise InternalError("no such PCI slot is free", {"slot": slot, "number": number})
        self._functions[place] = function

    # --- the bus

    def read(self, offset: int, size: int) -> int:
        """Return CONFIG_ADDRESS or the data it selects; all ones if there is no function."""
        if offset >= _DATA:
            function, register = self._selected(offset)
            if function is not None:
                return function.read_config(register, size)
        elif offset == 0 and size == 4:
            return self._address
        elif offset == _RESET_CONTROL and size == 1 and self._reset_control is not None:
            return self._reset_control.read(0, 1)
        return (1 << 8 * size) - 1

    def write(self, offset: int, size: int, value: int) -> None:
        """Write CONFIG_ADDRESS or the data it selects."""
        if offset >= _DATA:
            function, register = self._selected(offset)
            if function is not None:
                function.write_config(register, size, value)
        elif offset == 0 and size == 4:
            self._address = value & _ADDRESS_BITS
        elif offset == _RESET_CONTROL and size == 1 and self._reset_control is not None:
            self._reset_control.write(0, 1, value)

    # --- state

    def save(self) -> PciHostState:
        """Return a copy of the state."""
        return PciHostState(self._address, self._bridge.save())

    def restore(self, state: PciHostState) -> None:
        """Restore `state`."""
        self._address = state.address
        self._bridge.restore(state.bridge)

    # --- inside

    def _selected(self, offset: int) -> tuple[PciFunction | None, int]:
        address = self._address
        register = address & 0xFC | offset - _DATA
        if not address & CONFIG_ENABLE or address >> 16 & 0xFF:
            return None, register
        return self._functions.get(address >> 8 & 0xFF), register
