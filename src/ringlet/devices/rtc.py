"""The MC146818 real-time clock with 128 bytes of RAM (Motorola MC146818A data sheet).

Nothing ticks: the time is computed from the machine's clock, counted from the host's wall time
when the chip was made or restored.  It is UTC.  `update()` reports the interrupts since its last
call, and `next_event()` returns the time of the next one, as in the 8254.

The chip updates the time once a second.  UIP is set from 244 us before the update until its end,
2,228 us in all.  At the end of the update, which this file calls the second's boundary, the
registers change and UF is set.  An invalid date does not advance until it is corrected.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

from ringlet.devices import calendar
from ringlet.devices.wiring import Clock, Line, unconnected

_NS: Final = 1_000_000_000
UPDATE_NS: Final = 244_000 + 1_984_000
RESET_TO_UPDATE_NS: Final = 500_000_000  # from the release of the dividers to the first update
CRYSTAL: Final = 32_768  # Hz
RAM_SIZE: Final = 128

# Addresses
SECONDS: Final = 0x00
SECONDS_ALARM: Final = 0x01
MINUTES: Final = 0x02
MINUTES_ALARM: Final = 0x03
HOURS: Final = 0x04
HOURS_ALARM: Final = 0x05
DAY_OF_WEEK: Final = 0x06
DAY_OF_MONTH: Final = 0x07
MONTH: Final = 0x08
YEAR: Final = 0x09
REGISTER_A: Final = 0x0A
REGISTER_B: Final = 0x0B
REGISTER_C: Final = 0x0C
REGISTER_D: Final = 0x0D
CENTURY: Final = 0x32  # a byte of RAM for the chip; the firmware of most PCs maintains it
_TIME: Final = (SECONDS, MINUTES, HOURS, DAY_OF_WEEK, DAY_OF_MONTH, MONTH, YEAR, CENTURY)
_ALARM: Final = (SECONDS_ALARM, MINUTES_ALARM, HOURS_ALARM)

# Register A
A_UIP: Final = 1 << 7
A_DIVIDER_RESET: Final = 0x60  # both upper bits of the divider control: held in reset
A_RATE: Final = 0x0F

# Register B
B_SET: Final = 1 << 7
B_PIE: Final = 1 << 6
B_AIE: Final = 1 << 5
B_UIE: Final = 1 << 4
B_SQWE: Final = 1 << 3
B_DM: Final = 1 << 2  # binary, else BCD
B_24H: Final = 1 << 1
B_DSE: Final = 1 << 0  # daylight saving; stored without effect

# Register C
C_IRQF: Final = 1 << 7
C_PF: Final = 1 << 6
C_AF: Final = 1 << 5
C_UF: Final = 1 << 4

# Register D
D_VRT: Final = 1 << 7

HOURS_PM: Final = 1 << 7
ALARM_ANY: Final = 0xC0  # an alarm byte of this value or more matches everything
NMI_DISABLE: Final = 1 << 7  # of the index port; no device makes an NMI


@dataclass(slots=True)
class RtcState:
    """The chip.  `ram` holds the alarm, the NVRAM and, while the clock is stopped, the time."""

    index: int = 0
    ram: list[int] = field(default_factory=lambda: [0] * RAM_SIZE)
    a: int = 0x26
    b: int = B_24H
    c: int = 0
    running: bool = True
    seconds: int = 0  # since 0001-01-01, at `since`
    since: int = 0  # clock time of a second's boundary
    weekday_shift: int = 0  # difference between the guest's day of the week and the calendar's
    seen: int = 0  # clock time up to which flags have been set


@dataclass(slots=True)
class RtcSnapshot:
    """The saved state: the chip, the clock, and the guest's distance from the host's time."""

    chip: RtcState
    now: int
    offset_ns: int


def _ignore_change() -> None:
    """Do nothing: the default of `changed`."""


class Rtc:
    """The clock at two ports of one byte: index and data.

    `clock` gives nanoseconds, `wall` the host's time in seconds since 1970, UTC; `irq` is driven
    with the level of the (inverted) IRQ pin; `changed` is called when the guest may have changed
    what `next_event` returns.
    """

    def __init__(
        self,
        clock: Clock,
        wall: Callable[[], float],
        irq: Line = unconnected,
        changed: Callable[[], None] = _ignore_change,
    ) -> None:
        self._clock = clock
        self._wall = wall
        self._irq = irq
        self._changed = changed
        now = clock()
        self._s = RtcState(seen=now)
        self._anchor(now, self._wall_ns())

    # --- the bus

    def read(self, offset: int, size: int) -> int:
        """Return the byte that the index selects; the index itself cannot be read."""
        if offset == 0:
            return 0xFF
        s = self._s
        now = self._clock()
        index = s.index
        if index == REGISTER_A:
            return s.a | (A_UIP if self._updating(now) else 0)
        if index == REGISTER_B:
            return s.b
        if index == REGISTER_C:
            return self._read_flags(now)
        if index == REGISTER_D:
            return D_VRT
        if index in _TIME and s.running:
            return self._time(now)[index]
        return s.ram[index]

    def write(self, offset: int, size: int, value: int) -> None:
        """Write the index, or the byte that it selects."""
        s = self._s
        if offset == 0:
            s.index = value & ~NMI_DISABLE & 0xFF
            return
        value &= 0xFF
        index = s.index
        if index in (REGISTER_C, REGISTER_D):
            return
        if index >= REGISTER_A and index not in (REGISTER_A, REGISTER_B, CENTURY):
            s.ram[index] = value
            return
        now = self._clock()
        self._advance(now)
        if index in _ALARM:
            s.ram[index] = value
        else:
            self._stop(now)
            if index == REGISTER_A:
                self._write_a(value, now)
            elif index == REGISTER_B:
                s.b = value & ~B_UIE if value & B_SET else value
            else:
                s.ram[index] = value
            self._start(now)
        self._drive()
        self._changed()

    # --- time

    def update(self) -> None:
        """Set the flags that are due and drive the interrupt line."""
        self._advance(self._clock())
        self._drive()

    def tick(self) -> int | None:
        """Do `update` and return `next_event`."""
        self.update()
        return self.next_event()

    def next_event(self) -> int | None:
        """Return the clock time at which `update` is due; None if no interrupt will come.

        Return None also while an interrupt is pending, because the line stays high until the guest
        reads register C.
        """
        s = self._s
        if s.b & s.c & (C_PF | C_AF | C_UF):
            return None
        due = []
        if s.b & B_PIE and (period := self._period()):
            due.append(self._next_pulse(s.seen, period))
        if s.running and s.b & B_UIE:
            due.append(self._next_boundary(s.seen))
        if s.running and s.b & B_AIE and (alarm := self._next_alarm(s.seen)) is not None:
            due.append(alarm)
        return min(due, default=None)

    # --- state

    def save(self) -> RtcSnapshot:
        """Return a copy of the state."""
        now = self._clock()
        self._advance(now)
        s = self._s
        here = self._seconds(now) * _NS + (now - s.since) % _NS
        return RtcSnapshot(_copy(s), now, here - self._wall_ns())

    def restore(self, state: RtcSnapshot) -> None:
        """Restore `state`; time that has passed on the host has also passed for the guest."""
        now = self._clock()
        self._s = s = _copy(state.chip)
        s.seen = now
        s.since += now - state.now
        if s.running:
            self._anchor(now, self._wall_ns() + state.offset_ns)
        self._drive()

    # --- the time of day

    def _wall_ns(self) -> int:
        """Return the host's time in nanoseconds since 0001-01-01."""
        whole, part = divmod(self._wall(), 1)  # one product of both parts would round
        return (calendar.UNIX_EPOCH + int(whole)) * _NS + int(part * _NS)

    def _anchor(self, now: int, time_ns: int) -> None:
        s = self._s
        s.seconds, into = divmod(time_ns, _NS)
        s.since = now - into

    def _seconds(self, now: int) -> int:
        s = self._s
        return s.seconds + ((now - s.since) // _NS if s.running else 0)

    def _next_boundary(self, after: int) -> int:
        return after + _NS - (after - self._s.since) % _NS

    def _updating(self, now: int) -> bool:
        return self._s.running and self._next_boundary(now) - now <= UPDATE_NS

    def _time(self, now: int) -> dict[int, int]:
        """Return the values of the time registers at `now`."""
        s = self._s
        moment = calendar.from_seconds(self._seconds(now))
        century, year = divmod(moment.year, 100)
        return {
            SECONDS: self._encode(moment.second),
            MINUTES: self._encode(moment.minute),
            HOURS: self._encode_hour(moment.hour),
            DAY_OF_WEEK: (moment.weekday + s.weekday_shift) % 7 + 1,
            DAY_OF_MONTH: self._encode(moment.day),
            MONTH: self._encode(moment.month),
            YEAR: self._encode(year),
            CENTURY: self._encode(century),
        }

    def _stop(self, now: int) -> None:
        """Store the time in its registers before the guest changes them or their format."""
        s = self._s
        if s.running:
            for index, value in self._time(now).items():
                s.ram[index] = value
            s.seconds = self._seconds(now)
            s.running = False

    def _start(self, now: int) -> None:
        """Start the clock at its registers' time, if it may run and the time is valid."""
        s = self._s
        if s.b & B_SET or s.a & A_DIVIDER_RESET == A_DIVIDER_RESET:
            return
        ram = s.ram
        seconds = calendar.to_seconds(
            self._decode(ram[CENTURY]) * 100 + self._decode(ram[YEAR]),
            self._decode(ram[MONTH]),
            self._decode(ram[DAY_OF_MONTH]),
            self._decode_hour(ram[HOURS]),
            self._decode(ram[MINUTES]),
            self._decode(ram[SECONDS]),
        )
        if seconds is None:
            return
        weekday = calendar.from_seconds(seconds).weekday
        s.weekday_shift = (ram[DAY_OF_WEEK] - 1 - weekday) % 7
        s.seconds = seconds
        s.since += (now - s.since) // _NS * _NS
        s.running = True

    def _write_a(self, value: int, now: int) -> None:
        """Set divider and rate; released dividers update the time after half a second."""
        s = self._s
        was_held = s.a & A_DIVIDER_RESET == A_DIVIDER_RESET
        s.a = value & ~A_UIP
        if was_held and value & A_DIVIDER_RESET != A_DIVIDER_RESET:
            s.since = now - (_NS - RESET_TO_UPDATE_NS)

    # --- formats

    def _encode(self, value: int) -> int:
        return value if self._s.b & B_DM else value // 10 << 4 | value % 10

    def _decode(self, byte: int) -> int:
        """Return the number that `byte` stands for, or a large number if `byte` is invalid."""
        if self._s.b & B_DM:
            return byte
        tens, units = byte >> 4, byte & 0xF
        return tens * 10 + units if tens < 10 and units < 10 else 1000

    def _encode_hour(self, hour: int) -> int:
        if self._s.b & B_24H:
            return self._encode(hour)
        return self._encode((hour - 1) % 12 + 1) | (HOURS_PM if hour >= 12 else 0)

    def _decode_hour(self, byte: int) -> int:
        if self._s.b & B_24H:
            return self._decode(byte)
        hour = self._decode(byte & ~HOURS_PM)
        if not 1 <= hour <= 12:
            return 1000
        return hour % 12 + (12 if byte & HOURS_PM else 0)

    # --- interrupts

    def _period(self) -> int:
        """Return the periodic interrupt's period in cycles of the crystal, 0 for none."""
        s = self._s
        rate = s.a & A_RATE
        if not rate or s.a & A_DIVIDER_RESET == A_DIVIDER_RESET:
            return 0
        # Rates 1 and 2 are the same as rates 8 and 9.
        return 1 << (rate + 6 if rate <= 2 else rate - 1)

    def _cycle(self, at: int) -> int:
        """Return the number of crystal cycles from a second's boundary to `at`."""
        return (at - self._s.since) * CRYSTAL // _NS

    def _next_pulse(self, after: int, period: int) -> int:
        cycle = (self._cycle(after) // period + 1) * period
        return self._s.since + -(-cycle * _NS // CRYSTAL)

    def _next_alarm(self, after: int) -> int | None:
        """Return the time of the next alarm after `after`, or None if its bytes never match."""
        s = self._s
        wanted = [
            calendar.Wanted(None if s.ram[index] >= ALARM_ANY else decode(s.ram[index]))
            for index, decode in (
                (HOURS_ALARM, self._decode_hour),
                (MINUTES_ALARM, self._decode),
                (SECONDS_ALARM, self._decode),
            )
        ]
        current = self._seconds(after)
        wait = calendar.until(current % calendar.DAY, *wanted)
        return None if wait is None else s.since + (current - s.seconds + wait) * _NS

    def _advance(self, now: int) -> None:
        """Set the flags of all events since the last call."""
        s = self._s
        if (period := self._period()) and self._next_pulse(s.seen, period) <= now:
            s.c |= C_PF
        if s.running and self._next_boundary(s.seen) <= now:
            s.c |= C_UF
            alarm = None if s.c & C_AF else self._next_alarm(s.seen)
            if alarm is not None and alarm <= now:
                s.c |= C_AF
        s.seen = max(s.seen, now)

    def _read_flags(self, now: int) -> int:
        """Return register C, clear it and lower the line."""
        s = self._s
        self._advance(now)
        flags = s.c | (C_IRQF if s.b & s.c & (C_PF | C_AF | C_UF) else 0)
        s.c = 0
        self._drive()
        self._changed()
        return flags

    def _drive(self) -> None:
        s = self._s
        self._irq(bool(s.b & s.c & (C_PF | C_AF | C_UF)))


def _copy(state: RtcState) -> RtcState:
    return replace(state, ram=list(state.ram))
