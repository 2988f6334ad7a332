"""A device that answers each chain with a copy of its readable bytes, and can be made to wait."""

import threading
from collections.abc import Callable
from typing import ClassVar

from ringlet.devices.virtio.buffers import scatter
from ringlet.devices.virtio.device import VirtioDevice
from ringlet.devices.virtio.queue import Chain, Queue


class Echo(VirtioDevice):
    """`keep` leaves chains with the test in `kept`; a held `gate` stops the device's thread."""

    kind: ClassVar[int] = 42
    class_code: ClassVar[int] = 0x12_34_56

    def __init__(self, failed: Callable[[Exception], None], queues: int = 2) -> None:
        super().__init__("echo", [64] * queues, failed)
        self.features = 1 << 5 | 1 << 40
        self.keep = False
        self.kept: list[tuple[Queue, Chain]] = []
        self.gate = threading.Lock()
        self.came = 0
        self.served = 0
        self.stops = 0
        self.options = bytearray(range(12))

    def read_config(self) -> bytes:
        return bytes(self.options)

    def write_config(self, offset: int, data: bytes) -> None:
        self.options[offset : offset + len(data)] = data

    def serve(self, queue: Queue, chain: Chain) -> None:
        self.came += 1
        with self.gate:
            self.served += 1
            if self.keep:
                self.kept.append((queue, chain))
                return
            self.answer(queue, chain)

    def answer(self, queue: Queue, chain: Chain) -> None:
        data = b"".join(chain.readable)
        self.give(queue, chain, scatter(data, chain.writable))

    def stopped(self) -> None:
        self.stops += 1
        self.kept.clear()
