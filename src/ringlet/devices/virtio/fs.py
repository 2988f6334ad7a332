"""The file system device (virtio 1.2, 5.11): passes FUSE requests to a file server of the host.

Short requests are performed on the device's own thread, because a change of threads costs more
than most of them.  Those that move much data or may wait for the disk go to a few more threads, and
each that waits for a lock has a thread of its own.
"""

import struct
from collections.abc import Callable
from functools import partial
from typing import ClassVar, Final, Protocol

from ringlet.devices.backends.shares.record_locks import WAITING
from ringlet.devices.virtio.buffers import gather
from ringlet.devices.virtio.device import VirtioDevice
from ringlet.devices.virtio.queue import Chain, Queue
from ringlet.devices.virtio.threads import HelperThreads
from ringlet.errors import ConfigError

QUEUE_SIZE: Final = 128
REQUESTS_SIZE: Final = 1024
"""Linux allows as many pages a request as fit, and 1 MiB needs 256."""
TAG_SIZE: Final = 36
THREADS: Final = 4
SHORT: Final = 64 << 10
"""The most bytes of data of a request that is performed on the device's own thread."""

LARGEST: Final = 4 << 20
BUFFERS: Final = 600
"""The most bytes and buffers of a request; Linux makes them of 1 MiB, in pages."""

_HEADER: Final = struct.Struct("<II")  # length and opcode
# Opcodes that may wait for a disk or another process, of fuse_kernel.h
_SLOW: Final = frozenset((20, 30, 43, 47, 50))
"""FSYNC, FSYNCDIR, FALLOCATE, COPY_FILE_RANGE, SYNCFS."""


class Server(Protocol):
    """What performs the requests; several threads may call `handle` at once.

    A request that `waits` may wait until `end_waits`, or `reset`, which forgets what the driver
    knows; without `may_wait` none does.
    """

    def handle(
        self, request: list[memoryview], reply: list[memoryview], *, may_wait: bool
    ) -> int: ...

    def waits(self, request: list[memoryview]) -> bool: ...

    def end_waits(self) -> None: ...

    def reset(self) -> None: ...


class Fs(VirtioDevice):
    """The device; `tag` is the name by which the guest mounts it, at most 36 bytes of UTF-8.

    Who made it closes `server` after it.  Raises ConfigError if the tag is too long.
    """

    kind: ClassVar[int] = 26
    class_code: ClassVar[int] = 0x01_80_00

    def __init__(
        self, server: Server, tag: str, failed: Callable[[Exception], None], name: str = "fs0"
    ) -> None:
        super().__init__(name, [QUEUE_SIZE, REQUESTS_SIZE], failed)
        if not 0 < len(tag.encode()) <= TAG_SIZE:
            raise ConfigError(f"{tag}: the name of a share has 1 to {TAG_SIZE} bytes")
        self._server = server
        self._tag = tag.encode()
        self._given_up = False
        self._helpers = HelperThreads(name, THREADS, failed)
        self._waiting = HelperThreads(f"{name}-locks", WAITING + 1, failed)

    def read_config(self) -> bytes:
        """Return virtio_fs_config (5.11.4)."""
        return struct.pack("<36sI", self._tag, 1)

    def serve(self, queue: Queue, chain: Chain) -> None:
        """Perform the request of a chain, or let another thread perform it."""
        head, _ = gather(chain.readable, _HEADER.size)
        if len(head) < _HEADER.size:
            self.fail("a request without a header")
            return
        _, opcode = _HEADER.unpack(head)  # the server reads it again, and checks it
        size = chain.readable_size + chain.writable_size
        if size > LARGEST or len(chain.readable) + len(chain.writable) > BUFFERS:
            self.fail(f"a request of {size} bytes")
            return
        self.counters.add("requests")
        if self._server.waits(chain.readable):
            self._waiting.call(partial(self._perform, queue, chain, may_wait=True))
            return
        if size > SHORT or opcode in _SLOW:
            self._helpers.call(partial(self._perform, queue, chain))
        else:
            self._perform(queue, chain)

    def _perform(self, queue: Queue, chain: Chain, *, may_wait: bool = False) -> None:
        if self._given_up:
            return  # nobody waits for it
        written = self._server.handle(chain.readable, chain.writable, may_wait=may_wait)
        self.give(queue, chain, written)

    def give_up(self) -> None:
        """Perform no more requests; those that have begun are short."""
        self._given_up = True

    def settle(self) -> None:
        """Wait for the requests of the other threads, as they write to guest RAM.

        Those for locks end, because no state that is saved could tell of them.
        """
        self._server.end_waits()
        self._waiting.wait()
        self._helpers.wait()

    def stopped(self) -> None:
        """Forget the driver."""
        self._given_up = False
        self._server.reset()

    def close(self) -> None:
        """End the device."""
        super().close()
        self._helpers.close()
        self._waiting.close()
