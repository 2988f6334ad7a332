"""The common configuration structure of a virtio device (virtio 1.2, 4.1.4.3), and its state."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from ringlet.devices.virtio.device import (
    F_EVENT_IDX,
    F_INDIRECT_DESC,
    F_VERSION_1,
    VirtioDevice,
)
from ringlet.devices.virtio.queue import Queue, QueueError

NO_VECTOR: Final = 0xFFFF

# Device status (2.1)
ACKNOWLEDGE: Final = 1
DRIVER: Final = 2
DRIVER_OK: Final = 4
FEATURES_OK: Final = 8
NEEDS_RESET: Final = 64
FAILED: Final = 128

# Offsets of the fields
FEATURE_SELECT, FEATURE = 0, 4
DRIVER_FEATURE_SELECT, DRIVER_FEATURE = 8, 12
CONFIG_VECTOR, QUEUES = 16, 18
STATUS, GENERATION = 20, 21
QUEUE_SELECT, QUEUE_SIZE, QUEUE_VECTOR, QUEUE_ENABLE, QUEUE_NOTIFY = 22, 24, 26, 28, 30
QUEUE_DESC, QUEUE_DRIVER, QUEUE_DEVICE, END = 32, 40, 48, 56
_SIZES: Final = {
    FEATURE_SELECT: 4, FEATURE: 4, DRIVER_FEATURE_SELECT: 4, DRIVER_FEATURE: 4, CONFIG_VECTOR: 2,
    QUEUES: 2, STATUS: 1, GENERATION: 1, QUEUE_SELECT: 2, QUEUE_SIZE: 2, QUEUE_VECTOR: 2,
    QUEUE_ENABLE: 2, QUEUE_NOTIFY: 2,
}  # fmt: skip
_ADDRESSES: Final = {
    QUEUE_DESC: "descriptors", QUEUE_DRIVER: "available", QUEUE_DEVICE: "used",
}  # fmt: skip


@dataclass(slots=True)
class QueueState:
    """What the driver told about a queue, and how far the device has come."""

    size: int
    descriptors: int
    available: int
    used: int
    enabled: bool
    taken: int
    given: int
    vector: int


@dataclass(slots=True)
class CommonState:
    """The registers, and the queues."""

    status: int = 0
    feature_select: int = 0
    driver_feature_select: int = 0
    driver_features: int = 0
    config_vector: int = NO_VECTOR
    queue_select: int = 0
    generation: int = 0
    queues: list[QueueState] = field(default_factory=list)


class CommonConfig:
    """The structure's registers.  Only the guest's thread reads and writes them.

    `reset` is called when the driver resets the device.
    """

    def __init__(
        self,
        device: VirtioDevice,
        queues: list[Queue],
        vectors: int,
        reset: Callable[[], None],
    ) -> None:
        self._device = device
        self._queues = queues
        self._vectors = vectors
        self._on_reset = reset
        self._offered = device.features | F_VERSION_1 | F_INDIRECT_DESC | F_EVENT_IDX
        self._s = CommonState()
        self._broken = False  # DEVICE_NEEDS_RESET, which the device's thread sets
        self.queue_vectors = [NO_VECTOR] * len(queues)

    # --- for the transport

    @property
    def generation(self) -> int:
        """config_generation, which changes with the device's configuration."""
        return self._s.generation

    @generation.setter
    def generation(self, value: int) -> None:
        self._s.generation = value

    @property
    def config_vector(self) -> int:
        """The MSI-X vector of changes of the configuration."""
        return self._s.config_vector

    def needs_reset(self) -> bool:
        """Set DEVICE_NEEDS_RESET; return whether the driver is to be told (2.1.2)."""
        self._broken = True
        return bool(self._s.status & DRIVER_OK)

    def reset(self) -> None:
        """Return to the state after power-on; the device is at rest from then on (2.4)."""
        self._device.stop()
        for queue in self._queues:
            queue.reset()
        self._broken = False
        self._s = CommonState(generation=self._s.generation)
        self.queue_vectors = [NO_VECTOR] * len(self._queues)
        self._on_reset()

    # --- accesses

    def read(self, offset: int, size: int) -> int:
        """Return a field; 0 for an access that is none."""
        for base, name in _ADDRESSES.items():
            if base <= offset and offset + size <= base + 8:
                queue = self._queue()
                value = getattr(queue, name) if queue is not None else 0
                return value >> 8 * (offset - base) & (1 << 8 * size) - 1
        if _SIZES.get(offset) != size:
            return 0
        return self._field(offset)

    def write(self, offset: int, size: int, value: int) -> None:
        """Write a field; what is read-only, or no field, is lost."""
        for base, name in _ADDRESSES.items():
            if base <= offset and offset + size <= base + 8:
                self._write_address(name, 8 * (offset - base), size, value)
                return
        if _SIZES.get(offset) != size:
            return
        s = self._s
        if offset == FEATURE_SELECT:
            s.feature_select = value
        elif offset == DRIVER_FEATURE_SELECT:
            s.driver_feature_select = value
        elif offset == DRIVER_FEATURE:
            self._write_features(value)
        elif offset == CONFIG_VECTOR:
            s.config_vector = self._vector(value)
        elif offset == STATUS:
            self._write_status(value)
        elif offset == QUEUE_SELECT:
            s.queue_select = value
        else:
            self._write_queue(offset, value)

    # --- state

    def save(self) -> CommonState:
        """Return a copy of the state."""
        s = self._s
        return CommonState(
            self._status(), s.feature_select, s.driver_feature_select, s.driver_features,
            s.config_vector, s.queue_select, s.generation,
            [
                QueueState(q.size, q.descriptors, q.available, q.used, q.enabled, q.taken, q.given,
                           vector)
                for q, vector in zip(self._queues, self.queue_vectors, strict=True)
            ],
        )  # fmt: skip

    def restore(self, state: CommonState) -> None:
        """Restore `state`, and let the device start if its driver was ready."""
        self._broken = bool(state.status & NEEDS_RESET)
        s = self._s = CommonState(
            state.status & ~NEEDS_RESET, state.feature_select, state.driver_feature_select,
            state.driver_features, state.config_vector, state.queue_select, state.generation,
        )  # fmt: skip
        for i, (queue, saved) in enumerate(zip(self._queues, state.queues, strict=True)):
            queue.reset()
            queue.size, queue.descriptors = saved.size, saved.descriptors
            queue.available, queue.used = saved.available, saved.used
            self.queue_vectors[i] = saved.vector
            self._set_rings(queue)
            if saved.enabled:
                queue.enable()
            queue.taken, queue.given = saved.taken, saved.given
        if s.status & DRIVER_OK and not self._broken:
            self._device.start(s.driver_features)

    # --- inside

    def _status(self) -> int:
        return self._s.status | (NEEDS_RESET if self._broken else 0)

    def _queue(self) -> Queue | None:
        select = self._s.queue_select
        return self._queues[select] if select < len(self._queues) else None

    def _vector(self, value: int) -> int:
        """Return the vector as the driver reads it back: NO_VECTOR if there is none (4.1.5.1.2)."""
        return value if value < self._vectors else NO_VECTOR

    def _field(self, offset: int) -> int:
        s = self._s
        if offset == FEATURE:
            return self._part(self._offered, s.feature_select)
        if offset == DRIVER_FEATURE:
            return self._part(s.driver_features, s.driver_feature_select)
        if offset >= QUEUE_SIZE:
            return self._queue_field(offset)
        return {
            FEATURE_SELECT: s.feature_select,
            DRIVER_FEATURE_SELECT: s.driver_feature_select,
            CONFIG_VECTOR: s.config_vector,
            QUEUES: len(self._queues),
            STATUS: self._status(),
            GENERATION: s.generation,
            QUEUE_SELECT: s.queue_select,
        }[offset]

    @staticmethod
    def _part(features: int, select: int) -> int:
        return features >> 32 * select & 0xFFFF_FFFF if select < 2 else 0

    def _queue_field(self, offset: int) -> int:
        queue = self._queue()
        if queue is None:
            return NO_VECTOR if offset == QUEUE_VECTOR else 0
        if offset == QUEUE_SIZE:
            return queue.size
        if offset == QUEUE_VECTOR:
            return self.queue_vectors[queue.index]
        return int(queue.enabled) if offset == QUEUE_ENABLE else queue.index

    def _write_features(self, value: int) -> None:
        s = self._s
        if s.driver_feature_select < 2 and not s.status & FEATURES_OK:
            shift = 32 * s.driver_feature_select
            s.driver_features = s.driver_features & ~(0xFFFF_FFFF << shift) | value << shift

    def _write_status(self, value: int) -> None:
        s = self._s
        if value == 0:
            self.reset()
            return
        new = value & ~s.status
        if new & FEATURES_OK and (
            s.driver_features & ~self._offered or not s.driver_features & F_VERSION_1
        ):
            value &= ~FEATURES_OK
        s.status |= value & ~NEEDS_RESET  # only a reset takes bits away (2.1.1)
        if new & DRIVER_OK and s.status & FEATURES_OK and not self._broken:
            self._device.start(s.driver_features)

    def forget_queues(self) -> None:
        """Let go of the queues, and of guest memory with them; the driver sees none then."""
        self._queues = []

    def _write_queue(self, offset: int, value: int) -> None:
        queue = self._queue()
        if queue is None:
            return
        if offset == QUEUE_VECTOR:
            self.queue_vectors[queue.index] = self._vector(value)
        elif queue.enabled:
            return
        elif offset == QUEUE_SIZE:
            queue.size = value
        elif offset == QUEUE_ENABLE and value == 1:
            self._set_rings(queue)
            try:
                queue.enable()
            except QueueError as error:
                self._device.fail(f"queue {queue.index}: {error}")

    def _set_rings(self, queue: Queue) -> None:
        queue.event_index = bool(self._s.driver_features & F_EVENT_IDX)
        queue.indirect = bool(self._s.driver_features & F_INDIRECT_DESC)

    def _write_address(self, name: str, shift: int, size: int, value: int) -> None:
        queue = self._queue()
        if queue is None or queue.enabled:
            return
        mask = (1 << 8 * size) - 1 << shift
        setattr(queue, name, getattr(queue, name) & ~mask | value << shift & mask)
