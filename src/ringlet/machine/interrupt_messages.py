"""Takes interrupt messages of devices and of the I/O APIC to the processors that they name."""

from collections.abc import Mapping

from ringlet.devices import messages
from ringlet.devices.wiring import Message


class InterruptMessages:
    """The processors' local APICs by their IDs, each with what takes its messages.

    A message to a processor that is not there is dropped, as on a bus.  A logical destination is
    each APIC's own to compare, because it depends on what the guest has set there.
    """

    def __init__(self, apics: Mapping[int, Message]) -> None:
        self._apics = dict(apics)
        self.dropped = 0
        """Messages that named no processor; any thread counts, so it may be a few too low."""

    def send(self, address: int, data: int) -> None:
        """Send a message, whose address is one (`messages.PAGE`).  Any thread may call this."""
        if address & messages.LOGICAL:
            destination = messages.BROADCAST
        else:
            destination = messages.destination_of(address)
        if (take := self._apics.get(destination)) is not None:
            take(address, data)
        elif destination == messages.BROADCAST:
            for take in self._apics.values():
                take(address, data)
        else:
            self.dropped += 1
