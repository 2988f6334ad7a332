"""What all virtio devices have in common: their thread, their queues and how chains go back."""

import contextlib
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar, Final, Protocol

from ringlet.devices.virtio.queue import Chain, Queue, QueueError
from ringlet.devices.virtio.worker import Worker

# Features of the transport, the same for all devices (virtio 1.2, 6)
F_INDIRECT_DESC: Final = 1 << 28
F_EVENT_IDX: Final = 1 << 29
F_VERSION_1: Final = 1 << 32


class Transport(Protocol):
    """What a device asks of its transport.  Any thread may call these."""

    def interrupt(self, queue: int) -> None:
        """Interrupt the driver for `queue`."""

    def config_changed(self) -> None:
        """Tell the driver that the configuration has changed."""

    def needs_reset(self, why: str) -> None:
        """Tell the driver that the device can do nothing more until it is reset."""

    def later(self, call: Callable[[], None]) -> None:
        """Let the guest's thread call `call`."""

    def drop_code(self, address: int, size: int) -> None:
        """Drop the translations of guest physical memory; only on the guest's thread."""

    def has_code(self, address: int, size: int) -> bool:
        """Return whether guest physical memory has code (`GuestMemory.has_code`)."""

    def discard(self, address: int, size: int) -> None:
        """Give pages of guest physical memory to the host (`GuestMemory.discard`)."""


@dataclass(slots=True)
class Counters:
    """What a device counts, by the name that `Pc.counters` shows."""

    values: dict[str, int] = field(default_factory=dict)

    def add(self, name: str, amount: int = 1) -> None:
        """Add to a counter."""
        self.values[name] = self.values.get(name, 0) + amount


@dataclass(frozen=True, slots=True)
class _Held:
    """A chain that waits for the guest's thread, which calls `before` and then gives it back."""

    queue: Queue
    chain: Chain
    written: int
    before: Callable[[], None] | None


_IDLE_ROUNDS: Final = 100
"""Looks in a row that find no chain where one was just announced; a driver causes one or two."""


class VirtioDevice:
    """A device without its transport.

    The transport calls `connect` once, `start` when the driver is ready, and `stop` before it
    changes anything that a thread of the device might use.
    """

    kind: ClassVar[int]
    """The virtio device ID (virtio 1.2, 5)."""
    class_code: ClassVar[int]
    """PCI class, subclass and interface, 24 bits."""

    def __init__(
        self, name: str, queue_limits: Sequence[int], failed: Callable[[Exception], None]
    ) -> None:
        self.name = name
        self.queue_limits = tuple(queue_limits)
        self.features = 0
        self.driver_features = 0
        self.queues: list[Queue] = []
        self.counters = Counters()
        self.worker = Worker(name, failed)
        self.doorbells: list[int] = []
        self.running = False
        self._held: deque[_Held] = deque()  # in the order in which they go back
        self._giving = threading.Lock()
        self._transport: Transport | None = None

    # --- for the transport

    def connect(self, transport: Transport, queues: list[Queue]) -> None:
        """Give the device its transport and its queues, and start its thread."""
        self._transport = transport
        self.queues = queues
        for queue in queues:
            bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            self.doorbells.append(bell)
            self.worker.watch(bell, partial(self._rung, bell, queue))
        self.worker.start()

    def start(self, features: int) -> None:
        """Begin to serve the queues, with the features that were negotiated."""
        self.driver_features = features
        self.running = True
        self.started()
        for bell in self.doorbells:  # chains may be there already
            os.eventfd_write(bell, 1)

    def stop(self) -> None:
        """Return when no thread of the device uses guest memory or a queue.

        What has not begun by now is dropped: the driver never sees an answer, as at a power cut.
        Only the guest's thread calls this.
        """
        self.give_up()
        self.worker.pause()
        try:
            self.running = False
            self.settle()
            self._held.clear()
            self.stopped()
        finally:
            self.worker.resume()

    def pause(self) -> None:
        """Return when the device is at rest, as before its state is saved.

        Only the guest's thread calls this.
        """
        self.worker.pause()
        self.settle()
        self._give_held()
        self.paused()

    def resume(self) -> None:
        """Go on after `pause`; chains that came meanwhile are looked for."""
        self.worker.resume()
        for bell in self.doorbells:
            os.eventfd_write(bell, 1)

    def close(self) -> None:
        """End the device's thread and give up what the host lent it."""
        self.stop()
        self.worker.close()
        for bell in self.doorbells:
            os.close(bell)
        self.doorbells.clear()

    def forget_queues(self) -> None:
        """Let go of the queues, and of guest memory with them, after `close`."""
        self.queues = []

    # --- what a device defines

    def read_config(self) -> bytes:
        """Return the device's configuration structure."""
        return b""

    def write_config(self, offset: int, data: bytes) -> None:
        """Change the configuration: `data`, checked by nobody, is written at `offset`."""

    def started(self) -> None:
        """Prepare for work; the device's thread may run already."""

    def give_up(self) -> None:
        """Have what is under way end soon, without an answer; the device's thread still runs.

        `settle` and `stopped` follow.
        """

    def settle(self) -> None:
        """Wait for what is under way elsewhere; the device's own thread is paused."""

    def paused(self) -> None:
        """Put back what `save` cannot tell of, such as a chain that was used in part.

        The device's thread is paused; it goes on with what it finds in the queues.
        """

    def stopped(self) -> None:
        """Forget the driver, which has reset the device; the device's own thread is paused."""

    def save(self) -> object:
        """Return a copy of what the device itself remembers, with its thread paused."""
        return None

    def restore(self, state: object) -> None:
        """Restore what `save` returned, before `start`."""

    def serve(self, queue: Queue, chain: Chain) -> None:
        """Handle a chain of `queue`, on the device's thread."""
        raise NotImplementedError

    def do_later(self) -> bool:
        """Do a little of what `serve` has put off; return whether there was any."""
        return False

    def rung(self, queue: Queue) -> None:
        """Handle a notification of `queue`, on the device's thread."""
        self.drain(queue)

    # --- for the device

    def has(self, feature: int) -> bool:
        """Return whether `feature` was negotiated."""
        return bool(self.driver_features & feature)

    @property
    def transport(self) -> Transport:
        """The transport."""
        assert self._transport is not None
        return self._transport

    def take(self, queue: Queue) -> Chain | None:
        """Take a chain; None if there is none, or if the driver broke a rule."""
        if not self.running:
            return None
        try:
            return queue.pop()
        except QueueError as error:
            self.fail(f"queue {queue.index}: {error}")
            return None

    def put_back(self, queue: Queue, count: int = 1) -> None:
        """Undo the last `count` calls of `take`, whose chains were not given back."""
        queue.taken = queue.taken - count & 0xFFFF

    def fail(self, why: str) -> None:
        """Stop serving a driver that broke a rule, until it resets the device."""
        self.running = False
        self.counters.add("broken")
        self.transport.needs_reset(f"{self.name}: {why}")

    def give(
        self, queue: Queue, chain: Chain, written: int, touched: int | None = None
    ) -> None:
        """Give `chain` back with `written` bytes, and interrupt the driver if it wants that.

        Any thread may call this.  Chains of a queue go back in the order of the calls.
        Translations of code that was overwritten are dropped first, on the guest's thread: of the
        first `written` bytes of the chain, or of `touched` where more of them may have changed.
        """
        self._give(queue, chain, written, written if touched is None else touched)
        self.tell(queue)

    def give_all(self, queue: Queue, chains: Sequence[tuple[Chain, int]]) -> None:
        """Give several chains back as `give` does, with one interrupt at the end."""
        for chain, written in chains:
            self._give(queue, chain, written, written)
        self.tell(queue)

    def _give(self, queue: Queue, chain: Chain, written: int, touched: int) -> None:
        code = queue.code_written(chain, touched)
        if code:
            self.counters.add("code_written")
        self.give_after(queue, chain, written, partial(self._drop, code) if code else None)

    def give_after(
        self, queue: Queue, chain: Chain, written: int, before: Callable[[], None] | None
    ) -> None:
        """Give `chain` back after the guest's thread has called `before`; None: at once.

        A chain that goes back at once still waits for those before it.  `tell` comes after it.
        """
        with self._giving:
            if before is None and not self._held:
                queue.push(chain, written)
                return
            self._held.append(_Held(queue, chain, written, before))
            if len(self._held) > 1:
                return  # the guest's thread has been called
        self.transport.later(self._give_held)

    def tell(self, queue: Queue) -> None:
        """Interrupt the driver if it wants that for what was pushed."""
        if queue.wants_interrupt():
            self.counters.add("interrupts")
            self.transport.interrupt(queue.index)

    # --- inside

    def _rung(self, bell: int, queue: Queue) -> None:
        with contextlib.suppress(BlockingIOError):  # a stopped device has read it
            os.eventfd_read(bell)
        self.counters.add("notifications")
        if self.running:
            self.rung(queue)

    def _goes_on(self) -> bool:
        """Return whether nobody waits for the thread; `resume` looks for chains again."""
        return self.running and not self.worker.wanted_away

    def _goes_on_later(self) -> bool:
        return self._goes_on() and self.do_later()

    def drain(self, queue: Queue) -> None:
        """Handle all chains of `queue`, on the device's thread."""
        idle = 0
        while self._goes_on():
            idle += 1
            queue.disarm()
            while (chain := self.take(queue)) is not None or self._goes_on_later():
                idle = 0
                if chain is not None:
                    self.serve(queue, chain)
                if not self._goes_on():
                    return
            if not self._goes_on() or not queue.arm():
                return
            if idle == _IDLE_ROUNDS:
                self.fail(f"queue {queue.index}: chains are announced and not there")

    def _drop(self, code: list[tuple[int, int]]) -> None:
        for address, size in code:
            self.transport.drop_code(address, size)

    def _give_held(self) -> None:
        """Give back what waits for the guest's thread, which calls this."""
        queues = []
        while self._held:
            held = self._held[0]
            if held.before is not None:
                held.before()
            with self._giving:  # whoever finds it empty pushes by himself
                held.queue.push(held.chain, held.written)
                self._held.popleft()
            if held.queue not in queues:
                queues.append(held.queue)
        for queue in queues:
            self.tell(queue)
