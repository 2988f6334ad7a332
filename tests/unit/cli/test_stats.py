"""The summary of a Linux guest's run."""

import os
import signal
import time
from collections.abc import Iterator
from typing import cast

import pytest

from ringlet.cli.stats import Moments, print_stats, printing_on_request, summary
from ringlet.machine.vm import Vm
from ringlet.observe import EmulatedForm

SECOND = 10**9
COUNTERS = {
    "exits": 1_234_567,
    "port_reads": 1_000,
    "mmio_writes": 2,
    "msr_reads": 3,
    "cpuid": 4,
    "halts": 5,
    "exceptions": 6,
    "interrupts": 7,
    "shadow_faults": 8,
    "fragments": 90_000,
    "kept_fragments": 9,
    "guest_instructions": 1_000_000,
    "code_cache_used": 3 << 20,
    "code_cache_size": 32 << 20,
    "flushes": 1,
    "machine_entry_ns": 100 * SECOND,
    "machine_wall_ns": 3 * SECOND,
}


def text(moments: Moments) -> str:
    """Return the summary as one line."""
    return " ".join(" ".join(summary(COUNTERS, moments)).split())


def test_times_are_from_one_event_to_the_next() -> None:
    moments = Moments(command=100 * SECOND - SECOND // 2, init=101 * SECOND)

    assert text(moments).startswith(
        "time 0.50 s from the command's start to the kernel's entry, 1.00 s from there to init, "
        "3.00 s in the guest exits"
    )


def test_times_that_are_not_known_are_left_out() -> None:
    assert text(Moments()).startswith("time 3.00 s in the guest exits")


def test_exits_are_listed_by_kind() -> None:
    assert (
        "exits port reads 1,000, port writes 0, device memory reads 0, device memory writes 2, "
        "MSR reads 3, MSR writes 0, CPUID 4, halts 5, exceptions 6, interrupts 7, shadow faults 8; "
        "1,234,567 in all"
    ) in text(Moments())


def test_translation_and_memory_are_listed() -> None:
    told = text(Moments())

    assert "code 90,000 fragments translated, with 1,000,000 instructions, 9 reused" in told
    assert "3 MiB of 32 MiB in use, flushes 1 memory 0 pages mapped, shadow faults 8" in told


def test_lines_fit_on_a_screen_and_are_few() -> None:
    lines = list(summary(COUNTERS, Moments(SECOND, SECOND)))

    assert max(len(line) for line in lines) <= 100
    assert len(lines) <= 8


def test_summary_comes_after_the_counters(capsys: pytest.CaptureFixture[str]) -> None:
    print_stats(COUNTERS)
    bare = capsys.readouterr().err
    print_stats(COUNTERS, Moments())

    assert capsys.readouterr().err.startswith(bare + "time  ")


class Counting:
    """A machine whose counter grows whenever it is read."""

    def __init__(self) -> None:
        self.exits = 0

    def counters(self) -> dict[str, int]:
        self.exits += 1000
        return {"exits": self.exits}


@pytest.fixture
def usual_signal() -> Iterator[None]:
    previous = signal.getsignal(signal.SIGUSR1)
    yield
    signal.signal(signal.SIGUSR1, previous)


@pytest.mark.usefixtures("usual_signal")
def test_counters_are_printed_on_request_with_the_time(capfd: pytest.CaptureFixture[str]) -> None:
    begin = time.monotonic_ns()

    with printing_on_request(cast("Vm", Counting())):
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGUSR1)

    first, second, rest = capfd.readouterr().err.split("\n\n")
    header, counter = first.splitlines()
    assert begin <= int(header.split()[2]) <= time.monotonic_ns()
    assert (counter.split()[:2], rest) == (["exits", "1,000"], "")
    assert second.splitlines()[1].split()[:2] == ["exits", "2,000"]


@pytest.mark.usefixtures("usual_signal")
def test_a_late_request_does_not_end_the_command(capfd: pytest.CaptureFixture[str]) -> None:
    with printing_on_request(cast("Vm", Counting())):
        pass
    os.kill(os.getpid(), signal.SIGUSR1)

    assert capfd.readouterr().err == ""


def test_emulated_forms_come_between_counters_and_summary(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_stats(COUNTERS, Moments(), [EmulatedForm("VPGATHERQQ ymm1, vm64y, ymm2", 3, 1)])
    lines = capsys.readouterr().err.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("emulated: "))

    assert "VPGATHERQQ ymm1, vm64y, ymm2" in lines[at]
    assert lines[at + 1].startswith("time  ")
