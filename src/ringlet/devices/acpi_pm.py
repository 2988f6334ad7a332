"""The fixed ACPI hardware: PM1a event and control blocks, PM timer, GPE0 (ACPI 6.4, 4.8).

Its ports, of which those above have no registers and read as 0:

    0   PM1_STS, 2   PM1_EN     event block
    4   PM1_CNT                 control block
    8   PM_TMR                  32 bits
    12  GPE0_STS, 14 GPE0_EN    16 general-purpose events

There is no firmware, so SCI_EN is always set and there is no SMI command port.
The only sleeping state is S5, soft off.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from ringlet.devices.wiring import Clock, Line, unconnected

_NS: Final = 1_000_000_000
FREQUENCY: Final = 3_579_545  # Hz, of the PM timer

# Offsets and lengths of the blocks
PM1_EVENT: Final = 0
PM1_EVENT_LENGTH: Final = 4
PM1_CONTROL: Final = 4
PM1_CONTROL_LENGTH: Final = 2
PM_TIMER: Final = 8
PM_TIMER_LENGTH: Final = 4
GPE0: Final = 12
GPE0_LENGTH: Final = 4
GPE_COUNT: Final = 16

# PM1 status and enable registers; the buttons are at the same place in both
TIMER: Final = 1 << 0
GLOBAL: Final = 1 << 5
POWER_BUTTON: Final = 1 << 8
SLEEP_BUTTON: Final = 1 << 9
RTC: Final = 1 << 10
WAKE: Final = 1 << 15  # status only
_ENABLE: Final = TIMER | GLOBAL | POWER_BUTTON | SLEEP_BUTTON | RTC

# PM1 control register
SCI_EN: Final = 1 << 0
BM_RLD: Final = 1 << 1
SLP_TYP_SHIFT: Final = 10
SLP_TYP: Final = 7 << SLP_TYP_SHIFT
SLP_EN: Final = 1 << 13  # write only
S5_TYPE: Final = 5
"""The SLP_TYP that turns the machine off; the DSDT's \\_S5 names it."""

_TIMER_TOP: Final = 1 << 31  # TMR_STS is set whenever this bit of the count changes


@dataclass(slots=True)
class AcpiPmState:
    """The registers; times are pulses of the PM timer's clock."""

    pm1_status: int = 0
    pm1_enable: int = 0
    pm1_control: int = SCI_EN
    gpe_status: int = 0
    gpe_enable: int = 0
    gpe_lines: int = 0
    rtc_line: bool = False
    seen: int = 0  # the time up to which the timer's status has been set


@dataclass(slots=True)
class AcpiPmSnapshot:
    """The saved state: the registers and the count."""

    registers: AcpiPmState
    count: int


def _ignore_change() -> None:
    """Do nothing: the default of `changed`."""


class AcpiPm:
    """The fixed hardware at its ports, up to 4 bytes wide.

    `power_off` is called when the guest enters S5; `sci` is driven with the level of the SCI;
    `changed` is called when the guest may have changed what `next_event` returns.
    """

    def __init__(
        self,
        clock: Clock,
        power_off: Callable[[], None],
        sci: Line = unconnected,
        changed: Callable[[], None] = _ignore_change,
    ) -> None:
        self._clock = clock
        self._power_off = power_off
        self._sci = sci
        self._changed = changed
        self._origin = clock()
        self._s = AcpiPmState()

    # --- the bus

    def read(self, offset: int, size: int) -> int:
        """Return `size` bytes at `offset`; all bytes of the timer are from one moment."""
        if offset == PM_TIMER and size == PM_TIMER_LENGTH:
            return self._count() & 0xFFFF_FFFF
        self._advance()
        s = self._s
        everything = (
            s.pm1_status | s.pm1_enable << 16 | s.pm1_control << 32
            | (self._count() & 0xFFFF_FFFF) << 64 | s.gpe_status << 96 | s.gpe_enable << 112
        )  # fmt: skip
        return everything >> 8 * offset & (1 << 8 * size) - 1

    def write(self, offset: int, size: int, value: int) -> None:
        """Write `size` bytes: ones clear status bits, and the timer is read only."""
        self._advance()
        s = self._s
        # `bits` and `mask` hold the value and the written bits for all the 16-bit registers.
        mask = ((1 << 8 * size) - 1) << 8 * offset
        bits = value << 8 * offset & mask
        s.pm1_status &= ~(bits & 0xFFFF)
        s.pm1_enable = _merge(s.pm1_enable, bits >> 16, mask >> 16) & _ENABLE
        s.gpe_status = s.gpe_status & ~(bits >> 96 & 0xFFFF) | s.gpe_lines
        s.gpe_enable = _merge(s.gpe_enable, bits >> 112, mask >> 112)
        if mask >> 32 & 0xFFFF:
            control = _merge(s.pm1_control, bits >> 32, mask >> 32)
            s.pm1_control = control & (BM_RLD | SLP_TYP) | SCI_EN
            if bits >> 32 & SLP_EN:
                self._sleep((control & SLP_TYP) >> SLP_TYP_SHIFT)
        self._drive()
        self._changed()

    # --- events

    @property
    def heeds_power_button(self) -> bool:
        """Whether the guest has enabled the event of the power button.  Any thread may ask."""
        return bool(self._s.pm1_enable & POWER_BUTTON)

    def press_power_button(self) -> None:
        """Ask the guest to shut down."""
        self._s.pm1_status |= POWER_BUTTON
        self._drive()

    def rtc(self, level: bool) -> None:
        """Follow the real-time clock's interrupt, whose alarm wakes a guest that sleeps."""
        s = self._s
        if level and not s.rtc_line:
            s.pm1_status |= RTC
            self._drive()
        s.rtc_line = level

    def gpe(self, number: int) -> Line:
        """Return the line of general-purpose event `number`, 0 to 15: level-triggered."""
        bit = 1 << number

        def drive(level: bool) -> None:
            s = self._s
            if level:
                s.gpe_lines |= bit
                s.gpe_status |= bit
            else:
                s.gpe_lines &= ~bit
            self._drive()

        return drive

    # --- time

    def update(self) -> None:
        """Set the timer's status if it is due and drive the SCI."""
        self._advance()
        self._drive()

    def tick(self) -> int | None:
        """Do `update` and return `next_event`."""
        self.update()
        return self.next_event()

    def next_event(self) -> int | None:
        """Return the clock time at which `update` is due; None if the timer makes no interrupt."""
        s = self._s
        if not s.pm1_enable & TIMER or s.pm1_status & TIMER:
            return None
        change = (s.seen // _TIMER_TOP + 1) * _TIMER_TOP
        return self._origin + -(-change * _NS // FREQUENCY)

    # --- state

    def save(self) -> AcpiPmSnapshot:
        """Return a copy of the state."""
        self._advance()
        return AcpiPmSnapshot(replace(self._s), self._count())

    def restore(self, state: AcpiPmSnapshot) -> None:
        """Restore `state`; the timer continues from its saved count."""
        self._origin = self._clock() - -(-state.count * _NS // FREQUENCY)
        self._s = replace(state.registers)
        self.update()

    # --- inside

    def _count(self) -> int:
        return (self._clock() - self._origin) * FREQUENCY // _NS

    def _advance(self) -> None:
        s = self._s
        now = self._count()
        if now // _TIMER_TOP != s.seen // _TIMER_TOP:
            s.pm1_status |= TIMER
        s.seen = now

    def _sleep(self, kind: int) -> None:
        if kind == S5_TYPE:
            self._power_off()
        else:
            # There is no such state.  The machine wakes at once, so that the guest does not wait.
            self._s.pm1_status |= WAKE

    def _drive(self) -> None:
        s = self._s
        self._sci(bool(s.pm1_status & s.pm1_enable or s.gpe_status & s.gpe_enable))


def _merge(old: int, bits: int, mask: int) -> int:
    return (old & ~mask | bits & mask) & 0xFFFF
