"""The driver's lines, which a guest may garble."""

import pytest

from ringlet.bench.debian.results import Timing, counters, counters_by_row, parse
from ringlet.bench.output import Line

STATS = """\
exits                       1,234 exits         exits from translated code to the run loop
machine_entry_ns   31,839,498,598 ns            start of the run, by the host's monotonic clock
time       0.42 s from the command's start to the kernel's entry
code       99 fragments translated, with 100 instructions
"""


def lines(*texts: str) -> list[Line]:
    """Lines that arrive a second apart, while the command uses 0.9 s of processor time."""
    return [Line(10**9 * i, text, 9 * 10**8 * i) for i, text in enumerate(texts)]


def test_a_row_has_its_times_faults_and_checksum() -> None:
    results = parse(lines("row perl begin", "row perl end 0 1000000007 800 50 42 ab1f\r"))

    timing = Timing("0", 1000000007, 800, 50, 42, "ab1f", None, 10**9, 9 * 10**8)
    assert results.timings == {"perl": timing}


def test_a_row_may_measure_its_own_rate() -> None:
    results = parse(lines("row rsa begin", "row rsa end 0 9 8 7 6 ab 3000 1.50"))
    aes = parse(lines("row aes begin", "row aes end 0 9 8 7 6 ab 3000 1.000000s"))

    assert results.timings["rsa"].rate == 2000
    assert aes.timings["aes"].rate == 3000


@pytest.mark.parametrize("rate", ["", "3000", "3000 0.00", "many 1.0", "-3 1.0", "1 1 1"])
def test_a_rate_that_is_none_is_left_out(rate: str) -> None:
    results = parse(lines("row rsa begin", f"row rsa end 0 9 8 7 6 ab {rate}"))

    assert results.timings["rsa"].rate is None


@pytest.mark.parametrize(
    "text",
    [
        "row perl end 0 1 2 3",
        "row perl end 0 one 2 3 4 ab",
        "row perl end",
        "row other end 0 1 2 3 4 ab",
        "[ 3.1] printk: row perl end 0 1 2 3 4 ab",
    ],
)
def test_a_garbled_line_is_no_figure(text: str) -> None:
    assert parse(lines("row perl begin", text)).timings == {}


def test_system_calls_are_counted_by_row() -> None:
    assert parse(lines("row xz calls 1500", "row go calls many")).calls == {"xz": 1500}


def test_the_reason_of_a_failure_is_kept() -> None:
    results = parse(lines("row gcc said run: gcc: fatal error: Killed", "driver: done"))

    assert results.said == {"gcc": "run: gcc: fatal error: Killed"}
    assert results.done


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("driver: mount of /proc failed with error 1", "mount of /proc failed with error 1"),
        (
            "[ 1.0] Kernel panic - not syncing: no init",
            "[ 1.0] Kernel panic - not syncing: no init",
        ),
    ],
)
def test_a_run_that_ends_early_says_why(text: str, complaint: str) -> None:
    results = parse(lines(text))

    assert (results.complaint, results.done) == (complaint, False)


@pytest.mark.parametrize(
    ("wall", "wrong"), [(1000, False), (1100, False), (800, True), (1200, True)]
)
def test_a_clock_must_agree_with_the_hosts(wall: int, wrong: bool) -> None:
    timing = Timing("0", wall * 10**6, 0, 0, 0, "", outside=10**9)

    assert timing.clock_is_wrong is wrong


def test_counters_are_those_of_the_table_without_times() -> None:
    assert counters(STATS) == {"exits": 1234}


def snapshot(time: int, exits: int) -> str:
    return f"counters at {time} ns of the clock\nexits      {exits} exits     from code\n\n"


def test_the_last_counters_are_those_of_the_whole_run() -> None:
    assert counters(snapshot(5, 10) + STATS.strip()) == {"exits": 1234}


def test_a_rows_counters_are_the_growth_between_its_lines() -> None:
    stderr = "warning\n" + snapshot(5, 10) + snapshot(10**9 + 5, 35) + "exits      99 exits"
    seen = lines("row perl begin", "row perl end 0 1 2 3 4 ab")

    assert counters_by_row(seen, stderr) == {"perl": {"exits": 25}}


def test_signals_that_became_one_give_neighbours_the_same_counters() -> None:
    stderr = snapshot(5, 10) + snapshot(2 * 10**9 + 5, 35) + snapshot(3 * 10**9 + 5, 40)
    seen = lines(
        "row a begin", "row a end 0 1 2 3 4 ab", "row b begin", "row b end 0 1 2 3 4 ab"
    )  # fmt: skip

    assert counters_by_row(seen, stderr) == {"a": {"exits": 25}, "b": {"exits": 5}}


def test_without_counters_after_a_line_there_are_none_for_the_row() -> None:
    seen = lines("row perl begin", "row perl end 0 1 2 3 4 ab")

    assert counters_by_row(seen, snapshot(5, 10)) == {}
    assert counters_by_row(seen, STATS) == {}
