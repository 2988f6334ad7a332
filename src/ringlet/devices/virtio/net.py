"""The network device (virtio 1.2, 5.1): passes frames between the driver and a link of the host.

Frames go through `ringlet.devices.virtio.frames`, which is compiled.  A stream carries complete
frames, up to its MTU, so there the driver neither segments nor leaves out checksums; a tap takes
over both.
"""

import contextlib
import fcntl
import os
import struct
import threading
from collections.abc import Callable
from typing import ClassVar, Final, Protocol

from ringlet.devices.backends.network.link import Framing
from ringlet.devices.virtio import frames
from ringlet.devices.virtio.device import VirtioDevice
from ringlet.devices.virtio.frames import Frames, LinkError
from ringlet.devices.virtio.queue import Queue, QueueError

QUEUE_SIZE: Final = 256
RX, TX = 0, 1

F_CSUM: Final = 1 << 0
F_GUEST_CSUM: Final = 1 << 1
F_MTU: Final = 1 << 3
F_MAC: Final = 1 << 5
F_GUEST_TSO4: Final = 1 << 7
F_GUEST_TSO6: Final = 1 << 8
F_HOST_TSO4: Final = 1 << 11
F_HOST_TSO6: Final = 1 << 12
F_MRG_RXBUF: Final = 1 << 15
F_STATUS: Final = 1 << 16

_LINK_UP: Final = 1
_TAP_OFFLOADS: Final = F_CSUM | F_HOST_TSO4 | F_HOST_TSO6 | F_GUEST_TSO4 | F_GUEST_TSO6

# ioctl TUNSETOFFLOAD of a tap: what it may pass to the guest
_TUNSETOFFLOAD: Final = 0x400454D0
_TUN_F_CSUM, _TUN_F_TSO4, _TUN_F_TSO6 = 1, 2, 4

_CONFIG: Final = struct.Struct("<6sHHH")


class NetLink(Protocol):
    """What the device uses of a link (`ringlet.devices.backends.network.link`)."""

    @property
    def fd(self) -> int: ...
    @property
    def framing(self) -> Framing: ...
    @property
    def mtu(self) -> int: ...
    @property
    def mac(self) -> bytes: ...

    def permits(self, frame: bytes) -> bool: ...

    def failed(self, why: str) -> None: ...

    def close(self) -> None: ...


class Net(VirtioDevice):
    """The device; who made it closes `link` after it."""

    kind: ClassVar[int] = 1
    class_code: ClassVar[int] = 0x02_00_00

    def __init__(
        self, link: NetLink, failed: Callable[[Exception], None], name: str = "net0"
    ) -> None:
        super().__init__(name, [QUEUE_SIZE, QUEUE_SIZE], failed)
        self._link = link
        self._tap = link.framing is Framing.TAP
        self._up = True
        self._out = os.dup(link.fd)
        self._frames: Frames | None = None
        self.features = F_MAC | F_STATUS | F_MTU | F_MRG_RXBUF | F_GUEST_CSUM
        if self._tap:
            self.features |= _TAP_OFFLOADS

    def read_config(self) -> bytes:
        """Return virtio_net_config (5.1.4)."""
        return _CONFIG.pack(self._link.mac, _LINK_UP if self._up else 0, 1, self._link.mtu)

    # --- running

    def started(self) -> None:
        """Begin to pass frames."""
        if self._tap:
            offloads = 0
            if self.has(F_GUEST_CSUM):
                offloads = _TUN_F_CSUM
                offloads |= _TUN_F_TSO4 if self.has(F_GUEST_TSO4) else 0
                offloads |= _TUN_F_TSO6 if self.has(F_GUEST_TSO6) else 0
            with contextlib.suppress(OSError):  # an older kernel passes complete frames
                fcntl.ioctl(self._link.fd, _TUNSETOFFLOAD, offloads)
        if self._frames is None:
            rx, tx = self.queues
            self._frames = Frames(self._link.fd, self._tap, rx, tx, self._link.permits)
        self._frames.reset()
        self._frames.mergeable = self.has(F_MRG_RXBUF)
        self.worker.call(self._begin)

    def paused(self) -> None:
        """Give the frame that waits until translations are dropped: `save` cannot tell of it."""
        if self._frames is not None and self._frames.unpublished():
            self._drop_ranges(self._frames.unpublished())
            self._frames.publish()
            self.tell(self.queues[RX])

    def stopped(self) -> None:
        """Leave the link alone; what it sends waits there."""
        self.worker.unwatch(self._link.fd)
        self.worker.unwatch(self._out)

    def rung(self, queue: Queue) -> None:
        """Handle a notification: frames to send, or buffers to fill."""
        if queue.index == TX:
            self._transmit()
        else:
            self._receive()

    def close(self) -> None:
        """End the device."""
        super().close()
        self._frames = None
        os.close(self._out)

    def link_lost(self) -> None:
        """Tell the driver that the cable is out; any thread may call this."""
        if self._up:
            self._up = False
            self.counters.add("link_lost")
            self.transport.config_changed()

    # --- the device's thread

    def _begin(self) -> None:
        if self.running:
            self._receive()

    def _receive(self) -> None:
        assert self._frames is not None
        queue = self.queues[RX]
        queue.disarm()
        while True:
            result = self._guarded(self._frames.receive)
            if self.worker.wanted_away:
                break
            if result == frames.CODE:
                if not self._drop_code():
                    return
            elif result == frames.NO_ROOM:
                if not queue.arm_beyond():
                    self.worker.unwatch(self._link.fd)
                    break
            else:
                break
        self.counters.values["received"] = self._frames.received
        self.counters.values["received_bytes"] = self._frames.received_bytes
        self.tell(queue)
        if result in {frames.DONE, frames.MORE} and self.running and self._up:
            self.worker.watch(self._link.fd, self._receive)
        if result == frames.MORE:  # frames may wait that the link has given already
            self.worker.call(self._begin)

    def _transmit(self) -> None:
        assert self._frames is not None
        queue = self.queues[TX]
        queue.disarm()
        while True:
            result = self._guarded(self._frames.transmit)
            if result != frames.DONE or self.worker.wanted_away or not self.running:
                break
            if not queue.arm():
                break
        self.counters.values["sent"] = self._frames.sent
        self.counters.values["sent_bytes"] = self._frames.sent_bytes
        self.counters.values["dropped"] = self._frames.dropped
        self.tell(queue)
        if result == frames.NO_ROOM and self._up:
            self.worker.watch(self._out, self._transmit, writable=True)
        else:
            self.worker.unwatch(self._out)
            if result == frames.MORE:
                self.worker.call(self._again)

    def _again(self) -> None:
        if self.running:
            self._transmit()

    def _guarded(self, call: Callable[[], int]) -> int:
        """Return the result of `call`; ENDED if the driver or the link broke a rule."""
        why = "it was closed"
        try:
            result = call() if self.running else frames.ENDED
        except QueueError as error:
            self.fail(str(error))
            result = frames.ENDED
        except LinkError as error:
            result = frames.ENDED
            why = str(error)
        if result == frames.ENDED:
            # A frame that waits would wake the thread again and again.
            self.worker.unwatch(self._link.fd)
            if self.running and self._up:
                self.link_lost()
                self._link.failed(why)
        return result

    def _drop_code(self) -> bool:
        """Wait until the guest's thread has dropped the translations of what was written."""
        assert self._frames is not None
        path, done = self._frames, threading.Event()
        ranges = path.unpublished()

        def drop() -> None:
            self._drop_ranges(ranges)
            done.set()

        self.counters.add("code_written")
        self.transport.later(drop)
        while not done.wait(0.01):
            if self.worker.wanted_away:
                return False
        path.publish()
        return True

    def _drop_ranges(self, ranges: list[tuple[int, int]]) -> None:
        for address, size in ranges:
            self.transport.drop_code(address, size)
