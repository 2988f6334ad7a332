"""Prints the counters of a run and a summary of them."""

import contextlib
import signal
import sys
import textwrap
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Final

from ringlet.config import format_size
from ringlet.machine.vm import Vm
from ringlet.observe import EmulatedForm, format_forms, format_stats

_WIDTH: Final = 100
_MARGIN: Final = 11
# The words for each counter in the summary, in the summary's order.
_KINDS: Final = {
    "port_reads": "port reads",
    "port_writes": "port writes",
    "mmio_reads": "device memory reads",
    "mmio_writes": "device memory writes",
    "msr_reads": "MSR reads",
    "msr_writes": "MSR writes",
    "cpuid": "CPUID",
    "halts": "halts",
    "exceptions": "exceptions",
    "interrupts": "interrupts",
    "shadow_faults": "shadow faults",
}


@dataclass(slots=True)
class Moments:
    """Times of events in ns of the host's monotonic clock; 0 if the time is not known.

    `command` is the start of the command, `init` the first message of the guest's init.
    """

    command: int = 0
    init: int = 0


def print_stats(
    counters: Mapping[str, int],
    moments: Moments | None = None,
    forms: Sequence[EmulatedForm] = (),
) -> None:
    """Print a line for each counter on standard error, and for the most frequent of `forms`.

    With `moments`, a summary follows.
    """
    _print(format_stats(counters))
    _print(format_forms(forms))
    if moments is not None:
        _print(summary(counters, moments))


@contextlib.contextmanager
def printing_on_request(machine: Vm) -> Iterator[None]:
    """Print the counters so far whenever SIGUSR1 arrives; the main thread must wait in the body.

    `ringlet.bench` asks for them so.  A line with the time precedes them, an empty line follows.
    """

    def show(number: int, frame: FrameType | None) -> None:
        _print([f"counters at {time.monotonic_ns()} ns of the host's monotonic clock"])
        _print(format_stats(machine.counters()))
        _print([""])

    signal.signal(signal.SIGUSR1, show)
    try:
        yield
    finally:
        # A signal that comes late must not end the command.
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)


def summary(counters: Mapping[str, int], moments: Moments) -> Iterator[str]:
    """Yield the lines of a Linux guest's summary."""
    count = {name: f"{value:,}" for name, value in counters.items()}
    kinds = ", ".join(f"{words} {count.get(name, 0)}" for name, words in _KINDS.items())
    used, room = counters.get("code_cache_used", 0), counters.get("code_cache_size", 0)
    parts = {
        "time": ", ".join(_times(counters, moments)),
        "exits": f"{kinds}; {count.get('exits', 0)} in all, including those that link fragments",
        "code": f"{count.get('fragments', 0)} fragments translated, with "
        f"{count.get('guest_instructions', 0)} instructions, "
        f"{count.get('kept_fragments', 0)} reused; code cache: {format_size(used)} of "
        f"{format_size(room)} in use, flushes {count.get('flushes', 0)}",
        "memory": f"{count.get('shadow_pages', 0)} pages mapped, shadow faults "
        f"{count.get('shadow_faults', 0)}",
    }
    for name, text in parts.items():
        lines = textwrap.wrap(text, _WIDTH - _MARGIN)
        yield f"{name:<{_MARGIN}}{lines[0]}"
        yield from (" " * _MARGIN + line for line in lines[1:])


def _times(counters: Mapping[str, int], moments: Moments) -> Iterator[str]:
    entry = counters.get("machine_entry_ns", 0)
    if moments.command:
        yield f"{_seconds(entry - moments.command)} from the command's start to the kernel's entry"
    if moments.init:
        yield f"{_seconds(moments.init - entry)} from there to init"
    yield f"{_seconds(counters.get('machine_wall_ns', 0))} in the guest"


def _seconds(ns: int) -> str:
    return f"{ns / 1e9:.2f} s"


def _print(lines: Iterable[str]) -> None:
    for line in lines:
        with contextlib.suppress(OSError):  # the guest's exit status matters more
            print(line, file=sys.stderr)
