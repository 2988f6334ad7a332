"""Parses what the driver prints; `programs/driver/start.c` has the lines.

The lines come from a guest, which may print anything: lines of another form are skipped.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Final

from ringlet.bench.output import LINUX_PANIC, Line
from ringlet.observe import COUNTERS

_RATE: Final = re.compile(r"(\d{1,15}) (\d{1,9}(?:\.\d{1,9})?)s?")
_COUNTER: Final = re.compile(r"^([a-z]\w*) +([\d,]+)(?: |$)", re.MULTILINE)

_TIME: Final = re.compile(r"^counters at (\d+) ns.*$", re.MULTILINE)

# A guest's clock may differ from the host's by this part, and by this many ns more, because on a
# busy host lines arrive late.
CLOCK_SHARE: Final = 0.03
CLOCK_NS: Final = 100_000_000

Pace = Callable[[int, int], float | None]


@dataclass(frozen=True, slots=True)
class Timing:
    """One run of a row.  Times are in ns.

    `wall`, `user` and `system` are what the system that runs the programs says, `outside` is the
    time between the arrival of the row's two lines, and `cpu` the processor time that the command
    used between them, if it is known.  `speed` is how fast the processor ran meanwhile: its pace
    during the rounds, as a part of its best one after them.
    """

    status: str
    wall: int
    user: int
    system: int
    faults: int
    checksum: str
    rate: float | None = None
    outside: int = 0
    cpu: int = 0
    speed: float = 1.0

    def scaled(self, ns: float) -> float:
        """Return what `ns` of this run would have been at full speed."""
        return ns * self.speed

    @property
    def clock_is_wrong(self) -> bool:
        """Return whether the time in the guest was not the host's."""
        return abs(self.wall - self.outside) > CLOCK_NS + CLOCK_SHARE * self.outside


@dataclass
class Results:
    """What the driver told of each row: times, system calls, and why a row failed."""

    timings: dict[str, Timing] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)
    said: dict[str, str] = field(default_factory=dict)
    complaint: str | None = None
    done: bool = False


def parse(lines: Iterable[Line], pace: Pace = lambda began, ended: None) -> Results:
    """Parse the driver's lines; `pace` is the gauge's, and tells the speed during each row."""
    results = Results()
    began: dict[str, Line] = {}
    for line in lines:
        match line.text.split():
            case ["row", name, "begin"]:
                began[name] = line
            case ["row", name, "end", status, *numbers] if name in began:
                timing = _timing(status, numbers, began[name], line)
                if timing is not None:
                    speed = pace(began[name].arrived, line.arrived) or 1.0
                    results.timings[name] = replace(timing, speed=speed)
            case ["row", name, "calls", count] if count.isdecimal():
                results.calls[name] = int(count)
            case ["row", name, "said", *words]:
                results.said[name] = " ".join(words)
            case ["driver:", "done"]:
                results.done = True
            case ["driver:", *words]:
                results.complaint = " ".join(words)
            case _ if LINUX_PANIC in line.text:
                results.complaint = line.text.strip()
    return results


def counters(stderr: str) -> dict[str, int]:
    """Return the counters that `ringlet run --stats` prints at the end, but those of the clock."""
    return _counters(stderr.rpartition("\n\n")[2])


def counters_by_row(lines: Iterable[Line], stderr: str) -> dict[str, dict[str, int]]:
    """Return by how much Ringlet's counters grew in each row, if they were asked for at its lines.

    `stderr` has the counters at several times; the first that were read after a line are its own.
    """
    _, *parts = _TIME.split(stderr)
    taken = [
        (int(time), _counters(text.partition("\n\n")[0]))
        for time, text in zip(parts[::2], parts[1::2], strict=True)
    ]
    found: dict[str, dict[str, int]] = {}
    began: dict[str, int] = {}
    for line in lines:
        match line.text.split():
            case ["row", name, "begin"]:
                began[name] = line.arrived
            case ["row", name, "end", *_] if name in began:
                before, after = _after(taken, began[name]), _after(taken, line.arrived)
                if before is not None and after is not None:
                    found[name] = {n: after[n] - before[n] for n in before.keys() & after.keys()}
    return found


def _after(taken: Iterable[tuple[int, dict[str, int]]], time: int) -> dict[str, int] | None:
    return next((values for at, values in taken if at >= time), None)


def _counters(text: str) -> dict[str, int]:
    found = {name: int(value.replace(",", "")) for name, value in _COUNTER.findall(text)}
    return {n: value for n, value in found.items() if n in COUNTERS and COUNTERS[n].unit != "ns"}


def _timing(status: str, numbers: list[str], began: Line, ended: Line) -> Timing | None:
    if len(numbers) < 5 or not all(text.isdecimal() for text in numbers[:4]):
        return None
    wall, user, system, faults = (int(text) for text in numbers[:4])
    measured = _RATE.fullmatch(" ".join(numbers[5:]))
    rate = None
    if measured is not None and float(measured[2]) > 0:
        rate = int(measured[1]) / float(measured[2])
    outside = ended.arrived - began.arrived
    return Timing(
        status, wall, user, system, faults, numbers[4], rate, outside, ended.cpu - began.cpu
    )
