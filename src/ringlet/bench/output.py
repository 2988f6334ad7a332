"""Parses the output of a benchmark program.

* `clock TSC NS`: the time stamp counter at a time of CLOCK_MONOTONIC (native only)
* `mark TSC`: at the program's start and end
* `section NAME TICKS SUM`: a section of `cpu`
* `nano NAME TICKS COUNT`: a measurement of `nano`; COUNT is 0 if it could not be made here
* `linux NAME TICKS COUNT`: a measurement of `linux`
* `panic: ...`: the guest's kernel met an unexpected exception

For the program `linux`, three more kinds of lines matter: Ringlet's counters, the last line of
QEMU's firmware, and the message of a Linux kernel that panics.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

LINUX_PANIC = "Kernel panic - not syncing"

# If a guest's counter is this close to the host's rate, both are assumed to be equal, because the
# arrival of a line is known only to about a millisecond.
SAME_RATE = 0.02


@dataclass(frozen=True)
class Line:
    """A line of output and its time of arrival, in ns of CLOCK_MONOTONIC.

    `cpu` is the processor time that the command had used by then, in ns, if it is known.
    """

    arrived: int
    text: str
    cpu: int = 0


@dataclass(frozen=True)
class Measurement:
    """Ticks of the time stamp counter for `count` operations, and a checksum if there is one."""

    ticks: int
    count: int = 1
    checksum: str | None = None


@dataclass
class Output:
    """The output of one run of a program."""

    measurements: dict[str, Measurement] = field(default_factory=dict)
    clocks: list[tuple[int, int]] = field(default_factory=list)
    marks: list[tuple[int, int]] = field(default_factory=list)
    complaint: str | None = None
    entered: int | None = None
    """The time of the kernel's entry, in ns of CLOCK_MONOTONIC, if the output contains it."""
    times: dict[str, int] = field(default_factory=dict)
    """Times measured from outside the guest, in ns."""

    @property
    def complete(self) -> bool:
        """Return whether the program ran to its end."""
        return len(self.marks) >= 2


def parse(lines: Iterable[Line]) -> Output:
    """Parse a program's output.  Other lines (firmware, warnings) are skipped."""
    output = Output()
    for line in lines:
        match line.text.split():
            case ["clock", tsc, ns] if tsc.isdecimal() and ns.isdecimal():
                output.clocks.append((int(tsc), int(ns)))
            case ["mark", tsc] if tsc.isdecimal():
                output.marks.append((int(tsc), line.arrived))
            case ["section", name, ticks, checksum] if ticks.isdecimal():
                output.measurements[name] = Measurement(int(ticks), 1, checksum)
            case ["nano" | "linux", name, ticks, count] if ticks.isdecimal() and count.isdecimal():
                output.measurements[name] = Measurement(int(ticks), int(count))
            case ["panic:" | "nano:" | "linux:" | "parser:", *_]:
                output.complaint = line.text.strip()
            case ["Booting", "from", *_] if not output.marks:
                output.entered = line.arrived
            case _ if LINUX_PANIC in line.text:
                output.complaint = line.text.strip()
    return output


def entry(stderr: str) -> int | None:
    """Return the time at which Ringlet entered the guest, from the counters in `stderr`."""
    for line in stderr.splitlines():
        match line.split():
            case ["machine_entry_ns", value, *_]:
                return int(value.replace(",", ""))
    return None


def rate(points: Sequence[tuple[int, int]]) -> float | None:
    """Return the ticks per ns from the first to the last (ticks, ns) pair; None if too few."""
    if len(points) < 2 or points[-1][1] <= points[0][1]:
        return None
    return (points[-1][0] - points[0][0]) / (points[-1][1] - points[0][1])


def ticks_per_ns(output: Output, host: float | None) -> float | None:
    """Return the rate of the counter that the program read.

    A native program measures the rate with the clock.  A guest's rate is the host's if the guest's
    marks agree with it, else the rate of the marks.
    """
    own = rate(output.clocks)
    if own is not None:
        return own
    marked = rate(output.marks)
    if host is not None and (marked is None or abs(marked / host - 1) < SAME_RATE):
        return host
    return marked
