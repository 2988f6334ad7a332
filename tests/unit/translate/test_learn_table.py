"""The table of shapes: decoding, and emptying when it is full."""

import itertools

import pytest
from tests.fuzz.decoding import run, systematic_strings

from ringlet.translate.learn_table import DecodeStatus, LearnTable
from ringlet.translate.translator import Translator

VZEROUPPER = bytes.fromhex("c5f877")
NOP, RET, HLT, CLC = b"\x90", b"\xc3", b"\xf4", b"\xf8"


@pytest.mark.parametrize("mode", [16, 32, 64])
def test_decoders_agree_on_random_strings(mode: int) -> None:
    assert run(6000, 20, mode).differences == []


@pytest.mark.parametrize("mode", [16, 32, 64])
def test_decoders_agree_on_some_of_all_opcodes(mode: int) -> None:
    comparer = run(0, 0, mode)
    for i, code in enumerate(systematic_strings()):
        if i % 41 == 0:
            comparer.compare(code)

    assert comparer.differences == []


@pytest.mark.parametrize("prefix", ["48", "66", "f2", "f3", "f0", "6648"])
def test_vex_after_a_prefix_is_refused_and_leaves_its_shape_alone(prefix: str) -> None:
    table = LearnTable()
    refused = table.decode(bytes.fromhex(prefix) + VZEROUPPER)
    accepted = table.decode(VZEROUPPER)

    assert (refused.refused, refused.length) == (True, 3 + len(prefix) // 2)
    assert (accepted.refused, accepted.length) == (False, 3)


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (b"\x66" * 13 + b"\x48\xc5\xc0\0\0", DecodeStatus.LONG),
        (b"\x66" * 13 + b"\x48\xc5", DecodeStatus.LONG),
        (b"\x66" * 12 + b"\x48\xc5", DecodeStatus.MORE),
        (b"\x66" * 12 + VZEROUPPER, DecodeStatus.OK),
        (b"\x66" * 13 + VZEROUPPER, DecodeStatus.LONG),
        (b"\x66" * 13 + b"\xc4\xe0\x78\x77", DecodeStatus.OK),  # a map that does not exist
    ],
)
def test_more_than_15_bytes_comes_before_undefined(code: bytes, status: DecodeStatus) -> None:
    assert LearnTable().decode(code).status == status


def test_full_table_is_emptied_and_goes_on() -> None:
    table = LearnTable(4)

    assert [table.learn(code) for code in (NOP, RET, HLT)] == [False, False, True]
    assert (table.count, table.emptied) == (1, 1)
    assert [table.decode(code).length for code in (NOP, RET, HLT, CLC)] == [1, 1, 1, 1]


def test_what_was_forgotten_is_unknown() -> None:
    table = LearnTable(4)
    for code in (NOP, RET, HLT):
        table.learn(code)

    table.learn(NOP)

    assert table.count == 2


def test_so_many_shapes_are_stored_that_a_run_has_room() -> None:
    full = LearnTable()
    for code in itertools.islice(systematic_strings(), 0, 120_000, 3):
        full.decode(code)
    assert full.count > 2048
    rows = full.rows()
    other = LearnTable()
    other.restore(rows)

    assert other.count == 2048
    assert other.decode(VZEROUPPER).length == 3


def test_rows_of_more_shapes_are_refused() -> None:
    table = LearnTable()
    for code in (NOP, RET):
        table.learn(code)
    row = len(table.rows()) // 2
    rows = b"".join(i.to_bytes(4, "little") + table.rows()[4:row] for i in range(2049))

    with pytest.raises(ValueError, match="no shapes"):
        LearnTable().restore(rows)


def test_shapes_met_in_this_run_are_stored_first() -> None:
    table = LearnTable()
    for code in (NOP, RET):
        table.learn(code)
    other = LearnTable()
    other.restore(table.rows())
    other.decode(RET)

    row = len(table.rows()) // 2
    assert other.rows() == table.rows()[row:] + table.rows()[:row]


def test_a_hostile_translations_file_leaves_the_next_run_its_shapes() -> None:
    hostile = Translator()
    for code in list(systematic_strings())[::7][:9000]:
        hostile.translate_in(code.ljust(4096, b"\xcc"), 0, 0x1000, 1 << 4)
    after = Translator()
    after.kept.load(hostile.kept.dump())

    assert after.shapes <= 2048
    assert after.translate(VZEROUPPER + RET).guest_instructions == 2
