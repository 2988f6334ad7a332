"""Counters: every one has its words."""

from ringlet.observe import (
    COUNTERS,
    MACHINE_COUNTERS,
    PROCESSOR_COUNTERS,
    EmulatedForm,
    format_forms,
    format_stats,
)
from ringlet.vcpu.processor import Processor


def test_every_counter_of_the_processor_is_described() -> None:
    names = set(Processor(2 << 20).counters())

    assert names == {c.name for c in PROCESSOR_COUNTERS}


def test_names_are_unique() -> None:
    assert len(COUNTERS) == len(PROCESSOR_COUNTERS) + len(MACHINE_COUNTERS)


def test_a_line_has_name_value_unit_and_meaning() -> None:
    (line,) = format_stats({"exits": 1234567})

    assert line.split()[:3] == ["exits", "1,234,567", "exits"]
    assert "from translated code to the run loop" in line


def test_unknown_counters_come_last_without_words() -> None:
    lines = list(format_stats({"novel": 1, "ops": 2}))

    assert [line.split()[0] for line in lines] == ["ops", "novel"]


def test_the_most_frequent_forms_are_listed_and_the_rest_are_counted() -> None:
    forms = [EmulatedForm(f"OP{n}", 100 - n, n) for n in range(12)]
    lines = list(format_forms(forms))

    assert lines[1].split() == "emulated: OP1 99 instructions, 1 of them at devices".split()
    assert lines[10:] == ["emulated: 2 other forms, 179 instructions"]


def test_a_run_without_emulation_lists_no_form() -> None:
    assert list(format_forms([])) == []
