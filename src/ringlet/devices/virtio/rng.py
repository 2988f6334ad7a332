"""The entropy device (virtio 1.2, 5.4): fills buffers with random bytes of the host."""

import os
from collections.abc import Callable
from typing import ClassVar, Final

from ringlet.devices.virtio.buffers import scatter
from ringlet.devices.virtio.device import VirtioDevice
from ringlet.devices.virtio.queue import Chain, Queue

_MOST: Final = 1 << 16
"""The most bytes that one request gets; a driver asks for less."""


class Rng(VirtioDevice):
    """The device; os.urandom is its source."""

    kind: ClassVar[int] = 4
    class_code: ClassVar[int] = 0x00_FF_00

    def __init__(self, failed: Callable[[Exception], None], name: str = "rng") -> None:
        super().__init__(name, [64], failed)

    def serve(self, queue: Queue, chain: Chain) -> None:
        """Fill the chain's writable buffers."""
        data = os.urandom(min(chain.writable_size, _MOST))
        self.counters.add("bytes", len(data))
        self.give(queue, chain, scatter(data, chain.writable))
