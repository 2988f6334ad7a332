"""Counters: every one has its words."""

import re
from pathlib import Path

from ringlet.observe import COUNTERS, MACHINE_COUNTERS, PROCESSOR_COUNTERS, format_stats

STATE = Path(__file__).parents[2] / "ringlet/core/state.pxd"


def test_every_counter_of_the_processor_is_described() -> None:
    fields = re.findall(r"^ +u64 (n_\w+(?:, n_\w+)*)", STATE.read_text(), re.MULTILINE)
    in_state = {name.removeprefix("n_") for line in fields for name in line.split(", ")}

    assert in_state == {c.name for c in PROCESSOR_COUNTERS}


def test_names_are_unique() -> None:
    assert len(COUNTERS) == len(PROCESSOR_COUNTERS) + len(MACHINE_COUNTERS)


def test_a_line_has_name_value_unit_and_meaning() -> None:
    (line,) = format_stats({"n_exits": 1234567})

    assert line.split()[:3] == ["exits", "1,234,567", "exits"]
    assert "left for the run loop" in line


def test_unknown_counters_come_last_without_words() -> None:
    lines = list(format_stats({"novel": 1, "ops": 2}))

    assert [line.split()[0] for line in lines] == ["ops", "novel"]
