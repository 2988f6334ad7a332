"""Reading what the benchmark programs print."""

import pytest

from ringlet.bench.output import Line, Measurement, Output, entry, parse, rate, ticks_per_ns


def lines(*texts: str) -> list[Line]:
    return [Line(1_000_000 * i, text) for i, text in enumerate(texts)]


def test_sections_and_primitives_are_read_by_name() -> None:
    output = parse(lines("section fib 500 00ff", "nano syscall 600 20", "linux pipe 9 3"))

    assert output.measurements == {
        "fib": Measurement(500, 1, "00ff"),
        "syscall": Measurement(600, 20, None),
        "pipe": Measurement(9, 3, None),
    }


def test_a_line_that_is_not_ours_is_skipped() -> None:
    output = parse(lines("SeaBIOS (version 1.16)", "section fib", "section fib x 0", ""))

    assert output.measurements == {}
    assert output.complaint is None


def test_a_panic_is_the_complaint() -> None:
    output = parse(lines("mark 5", "panic: vector 0e error 02 rip 400000 cr2 0"))

    assert output.complaint == "panic: vector 0e error 02 rip 400000 cr2 0"
    assert not output.complete


@pytest.mark.parametrize("stderr", ["", "ringlet: no such file", "exits 5 exits"])
def test_without_the_counter_the_entry_is_not_known(stderr: str) -> None:
    assert entry(stderr) is None


def test_a_line_that_ends_in_a_carriage_return_is_read() -> None:
    assert parse(lines("mark 5\r")).marks == [(5, 0)]


def test_two_marks_complete_a_run() -> None:
    assert parse(lines("mark 5", "mark 6")).complete


def test_rate_is_of_the_outermost_points() -> None:
    assert rate([(0, 0), (77, 20), (300, 100)]) == 3.0


@pytest.mark.parametrize("points", [[], [(1, 1)], [(1, 5), (2, 5)]])
def test_rate_of_too_few_points_is_none(points: list[tuple[int, int]]) -> None:
    assert rate(points) is None


def test_a_native_run_knows_its_rate_from_the_clock() -> None:
    output = Output(clocks=[(0, 0), (260, 100)], marks=[(0, 0), (900, 100)])

    assert ticks_per_ns(output, 5.0) == 2.6


def test_a_guest_near_the_host_rate_runs_at_the_host_rate() -> None:
    assert ticks_per_ns(Output(marks=[(0, 0), (2610, 1000)]), 2.6) == 2.6


def test_a_guest_with_another_rate_is_taken_at_its_own() -> None:
    assert ticks_per_ns(Output(marks=[(0, 0), (1000, 1000)]), 2.6) == 1.0


def test_an_unfinished_guest_is_taken_at_the_host_rate() -> None:
    assert ticks_per_ns(Output(marks=[(0, 0)]), 2.6) == 2.6
