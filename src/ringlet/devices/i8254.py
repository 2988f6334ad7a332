"""The 8254 programmable interval timer (Intel 8254 data sheet).

Nothing ticks: each counter stores the CLK pulse at which its count was loaded, and its value is
computed from the clock when it is read.  `update()` reports the rising edges of the outputs since
its last call; `next_event()` returns the time of the next one.  A count written at pulse t is
loaded at t + 1, so mode 0 with a count of N raises OUT at t + N + 1, as in the data sheet.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from ringlet.devices.wiring import Clock, Line, unconnected

FREQUENCY: Final = 1_193_182  # Hz, of a PC's CLK pins
_NS: Final = 1_000_000_000

# Control word
RW_LATCH: Final = 0
RW_LSB: Final = 1
RW_MSB: Final = 2
RW_BOTH: Final = 3
READ_BACK: Final = 3  # as SC1, SC0
READ_BACK_NO_COUNT: Final = 1 << 5
READ_BACK_NO_STATUS: Final = 1 << 4

# Status byte
STATUS_OUT: Final = 1 << 7
STATUS_NULL: Final = 1 << 6


@dataclass(slots=True)
class CounterState:
    """One counter.  Times are CLK pulses since the timer's clock began."""

    mode: int = 0
    rw: int = RW_BOTH
    bcd: bool = False
    gate: bool = True
    count: int = 0x10000  # the count in effect: 1 to 65,536 (10,000 in BCD)
    start: int | None = None  # the pulse at which the count was loaded; None: not counting yet
    held: int | None = None  # pulses counted before a low gate stopped it
    pending: int | None = None  # count that takes effect at `switch_at`
    switch_at: int = 0
    seen: int = 0  # the pulse up to which outputs have been reported
    low_byte: int | None = None  # first byte of a two-byte write
    read_high: bool = False  # next byte of a two-byte read
    latched: list[int] | None = None  # bytes of a latched count, next one first
    latched_status: int | None = None


class Counter:
    """One counter, observed at given CLK pulses."""

    def __init__(self, *, gate: bool) -> None:
        self.s = CounterState(gate=gate)

    # --- programming

    def write_control(self, rw: int, mode: int, bcd: bool, now: int) -> None:
        """Set mode and format; counting stops until a count is written."""
        s = self.s
        self.s = CounterState(
            mode=mode if mode < 6 else mode - 4, rw=rw, bcd=bcd, gate=s.gate, seen=now
        )

    def write(self, byte: int, now: int) -> None:
        """Write the next byte of a count."""
        s = self.s
        if s.rw == RW_BOTH and s.low_byte is None:
            s.low_byte = byte
            if s.mode == 0:  # the first byte stops counting and lowers OUT
                s.start = s.held = None
            return
        if s.rw == RW_LSB:
            value = byte
        elif s.rw == RW_MSB:
            value = byte << 8
        else:
            value = byte << 8 | (s.low_byte or 0)
        s.low_byte = None
        self._load(_from_bcd(value) if s.bcd else value, now)

    def set_gate(self, level: bool, now: int) -> None:
        """Drive GATE: a level in modes 0, 2, 3, 4, a trigger in modes 1, 2, 3, 5."""
        s = self.s
        rises = level and not s.gate
        falls = s.gate and not level
        if falls and s.start is not None and s.held is None and s.mode in (0, 2, 3, 4):
            s.held = self._elapsed(now)
        s.gate = level
        if not rises:
            return
        if s.mode in (0, 4):
            if s.held is not None:
                s.start, s.held = now - s.held, None
        elif s.pending is not None:
            s.count, s.pending = s.pending, None
            s.start, s.held = now + 1, None
        elif s.start is not None:
            s.start, s.held = now + 1, None

    def _load(self, value: int, now: int) -> None:
        s = self.s
        count = value or self._modulus()
        if s.mode in (1, 5):
            # The count waits for a trigger; a running one-shot is not disturbed.
            s.pending = count
            s.switch_at = -1
        elif s.mode in (2, 3) and s.start is not None and s.held is None:
            s.pending = count
            s.switch_at = self._cycle_end(now)
        else:
            s.count = count
            s.start = now + 1
            s.held = None if s.gate else -1
            s.seen = now

    # --- outputs and values

    def out(self, now: int) -> bool:
        """Return the level of OUT."""
        self._settle(now)
        s = self.s
        if s.start is None:
            return s.mode != 0
        elapsed = self._elapsed(now)
        if s.mode in (2, 3) and s.held is not None:
            return True  # a low gate raises OUT at once
        match s.mode:
            case 0 | 1:
                return elapsed >= s.count or (s.mode == 1 and elapsed < 0)
            case 2:
                return elapsed < 0 or elapsed % s.count != s.count - 1
            case 3:
                return elapsed < 0 or elapsed % s.count < (s.count + 1) // 2
            case _:
                return elapsed != s.count

    def value(self, now: int) -> int:
        """Return the counting element, in binary or BCD as programmed."""
        self._settle(now)
        s = self.s
        elapsed = max(0, self._elapsed(now)) if s.start is not None else 0
        match s.mode:
            case 2:
                value = s.count - elapsed % s.count
            case 3:
                high = (s.count + 1) // 2
                position = elapsed % s.count
                value = (s.count & ~1) - 2 * (position if position < high else position - high)
            case _:
                value = s.count - elapsed
        value %= self._modulus()
        return _to_bcd(value) if s.bcd else value

    def read(self, now: int) -> int:
        """Return the next byte: latched status, else latched count, else the current count."""
        s = self.s
        if s.latched_status is not None:
            status, s.latched_status = s.latched_status, None
            return status
        if s.latched is not None:
            byte = s.latched.pop(0)
            if not s.latched:
                s.latched = None
            return byte
        value = self.value(now)
        if s.rw == RW_BOTH:
            s.read_high = not s.read_high
            return value & 0xFF if s.read_high else value >> 8
        return value >> 8 if s.rw == RW_MSB else value & 0xFF

    def latch_count(self, now: int) -> None:
        """Latch the count for reading; a second latch before the read has no effect."""
        s = self.s
        if s.latched is not None:
            return
        value = self.value(now)
        low, high = value & 0xFF, value >> 8
        s.latched = {RW_LSB: [low], RW_MSB: [high]}.get(s.rw, [low, high])

    def latch_status(self, now: int) -> None:
        """Latch the status byte for reading."""
        s = self.s
        if s.latched_status is None:
            out = self.out(now)
            not_loaded = s.start is None or s.pending is not None or now < s.start
            s.latched_status = (
                (STATUS_OUT if out else 0) | (STATUS_NULL if not_loaded else 0)
                | s.rw << 4 | s.mode << 1 | s.bcd
            )  # fmt: skip

    # --- edges

    def advance(self, now: int) -> bool:
        """Return whether OUT rose since the last call."""
        s = self.s
        rose = False
        if s.pending is not None and s.start is not None and 0 <= s.switch_at <= now:
            edge = self._next_rise(s.seen)
            rose = edge is not None and edge <= s.switch_at
            s.seen = max(s.seen, s.switch_at)
            self._settle(now)
        edge = self._next_rise(s.seen)
        rose = rose or (edge is not None and edge <= now)
        s.seen = max(s.seen, now)
        return rose

    def cycle(self, now: int) -> tuple[bool, bool, int] | None:
        """Return `advance`, `out` and `next_rise` of a counter that cycles without changes.

        Return None for any other counter.
        """
        s = self.s
        start = s.start
        if s.mode not in (2, 3) or start is None or s.held is not None or s.pending is not None:
            return None
        count = s.count
        position = (now - start) % count
        edge = now - position
        if edge < start:
            return None
        rose = s.seen < edge > start
        s.seen = max(s.seen, now)
        level = position != count - 1 if s.mode == 2 else position < (count + 1) // 2
        return rose, level, edge + count

    def next_rise(self) -> int | None:
        """Return the pulse of the next rise of OUT after the last `advance`."""
        s = self.s
        edge = self._next_rise(s.seen)
        if edge is not None and s.pending is not None and 0 <= s.switch_at < edge:
            return s.switch_at  # later rises depend on the new count
        return edge

    def _next_rise(self, after: int) -> int | None:
        s = self.s
        if s.start is None or s.held is not None:
            return None
        elapsed = max(after - s.start, -1)
        match s.mode:
            case 0 | 1:
                edge = s.count
            case 2 | 3:
                edge = (max(elapsed, 0) // s.count + 1) * s.count
            case _:
                edge = s.count + 1
        return s.start + edge if edge > elapsed else None

    # --- inside

    def _modulus(self) -> int:
        return 10_000 if self.s.bcd else 0x10000

    def _elapsed(self, now: int) -> int:
        s = self.s
        if s.held is not None:
            return s.held
        return now - (s.start or 0)

    def _cycle_end(self, now: int) -> int:
        """Return the pulse at which modes 2 and 3 reload: the end of the cycle or half cycle."""
        s = self.s
        start = s.start or 0
        elapsed = max(now - start, 0)
        cycle, position = divmod(elapsed, s.count)
        high = (s.count + 1) // 2
        if s.mode == 3 and position < high and s.count > 1:
            return start + cycle * s.count + high
        return start + (cycle + 1) * s.count

    def _settle(self, now: int) -> None:
        """Make a count that was written during a cycle take effect after the cycle's end."""
        s = self.s
        if s.pending is None or s.start is None or not 0 <= s.switch_at <= now:
            return
        at_half = s.mode == 3 and (s.switch_at - s.start) % s.count != 0
        s.count, s.pending = s.pending, None
        s.start = s.switch_at - ((s.count + 1) // 2 if at_half else 0)


def _ignore_change() -> None:
    """Do nothing: the default of `changed`."""


@dataclass(slots=True)
class I8254State:
    """The three counters, and the CLK pulse at which they were saved."""

    counters: list[CounterState]
    now: int


class I8254:
    """The timer at four ports of one byte.

    `clock` gives nanoseconds; `irq` is driven with the level of counter 0's OUT;
    `changed` is called when the guest may have changed what `next_event` returns.
    """

    def __init__(
        self, clock: Clock, irq: Line = unconnected, changed: Callable[[], None] = _ignore_change
    ) -> None:
        self._clock = clock
        self._irq = irq
        self._changed = changed
        self._origin = clock()
        self._counters = [Counter(gate=True), Counter(gate=True), Counter(gate=False)]

    # --- the bus

    def read(self, offset: int, size: int) -> int:
        """Return the next byte of counter `offset`; the control word cannot be read."""
        if offset == 3:
            return 0xFF
        return self._counters[offset].read(self._pulse())

    def write(self, offset: int, size: int, value: int) -> None:
        """Write a count byte (0 to 2) or the control word (3)."""
        now = self._pulse()
        self._report(now)
        if offset < 3:
            self._counters[offset].write(value, now)
        elif value >> 6 == READ_BACK:
            self._read_back(value, now)
        elif value >> 4 & 3 == RW_LATCH:
            self._counters[value >> 6].latch_count(now)
        else:
            counter = self._counters[value >> 6]
            counter.write_control(value >> 4 & 3, value >> 1 & 7, bool(value & 1), now)
        self._irq(self._counters[0].out(now))
        self._changed()

    def _read_back(self, value: int, now: int) -> None:
        for number, counter in enumerate(self._counters):
            if value >> (number + 1) & 1:
                if not value & READ_BACK_NO_COUNT:
                    counter.latch_count(now)
                if not value & READ_BACK_NO_STATUS:
                    counter.latch_status(now)

    # --- pins

    def set_gate(self, number: int, level: bool) -> None:
        """Drive the gate of counter `number`; on a PC the gates of 0 and 1 are tied high."""
        self._counters[number].set_gate(level, self._pulse())
        self._changed()

    def out(self, number: int) -> bool:
        """Return the output of counter `number`."""
        return self._counters[number].out(self._pulse())

    # --- time

    def update(self) -> None:
        """Drive the interrupt line; several ticks since the last call make one edge."""
        self._report(self._pulse())

    def tick(self) -> int | None:
        """Do `update` and return `next_event`, by a short path if a counter cycles without changes.

        A machine calls this hundreds of times a second, with cold caches.
        """
        counter = self._counters[0]
        now = self._pulse()
        cycle = counter.cycle(now)
        if cycle is None:
            self._report(now)
            return self.next_event()
        rose, level, following = cycle
        if rose:
            self._irq(False)
            self._irq(True)
        if not level:
            self._irq(False)
        return self._origin + -(-following * _NS // FREQUENCY)

    def next_event(self) -> int | None:
        """Return the clock time at which `update` is due; None if there are no more ticks."""
        edge = self._counters[0].next_rise()
        return None if edge is None else self._origin + -(-edge * _NS // FREQUENCY)

    def _report(self, now: int) -> None:
        counter = self._counters[0]
        if counter.advance(now):
            self._irq(False)
            self._irq(True)
        self._irq(counter.out(now))

    def _pulse(self) -> int:
        return (self._clock() - self._origin) * FREQUENCY // _NS

    # --- state

    def save(self) -> I8254State:
        """Return a copy of the state."""
        return I8254State([_copy(c.s) for c in self._counters], self._pulse())

    def restore(self, state: I8254State) -> None:
        """Restore `state`; time continues from the moment it was saved."""
        self._origin = self._clock() - -(-state.now * _NS // FREQUENCY)
        for counter, saved in zip(self._counters, state.counters, strict=True):
            counter.s = _copy(saved)
        self.update()


def _copy(state: CounterState) -> CounterState:
    latched = None if state.latched is None else list(state.latched)
    return replace(state, latched=latched)


def _to_bcd(value: int) -> int:
    return int(f"{value:04d}", 16)


def _from_bcd(value: int) -> int:
    return sum((value >> 4 * digit & 0xF) * 10**digit for digit in range(4))
