"""Reset of one function by its driver: Advanced Features of conventional PCI.

See the PCI-SIG's engineering change notice "Advanced Capabilities for Conventional PCI" of 2006.
The reset is done when the write that asks for it returns, so there is never a transaction pending.
"""

from typing import Final

from ringlet.devices.pci import PciFunction

CAPABILITY: Final = 0x13
LENGTH: Final = 6

# Offsets in the capability
AF_CAPABILITIES: Final = 3
AF_CONTROL: Final = 4
AF_STATUS: Final = 5

TRANSACTIONS_PENDING: Final = 1 << 0  # there is the status bit; and the bit itself
FUNCTION_RESET: Final = 1 << 1
INITIATE: Final = 1 << 0  # of the control register; always read as 0


class FunctionReset:
    """The capability of `function`, by which the guest resets it alone."""

    def __init__(self, function: PciFunction) -> None:
        self._function = function
        body = bytes([LENGTH, TRANSACTIONS_PENDING | FUNCTION_RESET, 0, 0])
        writable = bytes([0, 0, INITIATE, 0])
        self._offset = function.add_capability(
            CAPABILITY, body, writable, after_write=self._written
        )

    def _written(self, offset: int, size: int) -> None:
        if self._function.get_config(self._offset + AF_CONTROL, 1) & INITIATE:
            self._function.reset()  # the bit is 0 from then on
