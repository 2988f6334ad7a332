"""16- and 32-bit code: Ringlet against the host, and the parts that only such programs have."""
from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from iced_x86 import Decoder

from tests.differential import forms, layout
from tests.differential.campaign import (
    Report,
    form_programs,
    random_programs,
    run_campaign,
)
from tests.differential.engine import Engine
from tests.differential.generate import Generator, Style, random_program
from tests.differential.narrow.generate import Generator16, NarrowGenerator, SegmentedGenerator
from tests.differential.narrow.legacy import LegacyRunner, Paging
from tests.differential.narrow.ring0 import Ring0Generator, Ring0Runner
from tests.differential.native import NativeRunner
from tests.differential.program import (
    SEGMENTS,
    SELECTORS_16,
    SELECTORS_32,
    Item,
    Program,
    State,
    from_text,
    to_text,
)
from tests.differential.segments import NAMED, SELECTOR, STACK_HIGH, TABLE, Segment


def _summary(report: Report) -> str:
    return "\n\n".join(d.text() for d in report.divergences.values())


def program(*lines: str, **registers: int) -> Program:
    """A program of 32-bit code at the start of the code area."""
    names = ("eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi")
    gpr = (*(registers.get(n, 0) for n in names), *[0] * 8)
    return Program(tuple(Item(raw=bytes.fromhex(line)) for line in lines), bits=32,
                   state=State(gpr, selectors=SELECTORS_32))


KINDS = [NarrowGenerator, SegmentedGenerator, Generator16]


@pytest.fixture(scope="module")
def legacy() -> Iterator[Callable[[Paging], LegacyRunner]]:
    """Gives the engine of a kind of paging, made at its first use."""
    made: dict[Paging, LegacyRunner] = {}

    def get(paging: Paging) -> LegacyRunner:
        if paging not in made:
            made[paging] = LegacyRunner(paging)
        return made[paging]

    yield get
    for engine in made.values():
        engine.close()


@pytest.mark.parametrize("kind", KINDS)
def test_random_programs_are_equal(kind: type[Generator], native: NativeRunner,
                                   ringlet: Engine) -> None:
    report = run_campaign(native, ringlet, random_programs(0, 1000, kind=kind), keep=3)
    assert not report.different, _summary(report)


@pytest.mark.parametrize("kind", KINDS)
def test_every_form_is_equal(kind: type[Generator], native: NativeRunner, ringlet: Engine) -> None:
    report = run_campaign(native, ringlet, form_programs(1, kind=kind), keep=3)
    assert not report.different, _summary(report)


@pytest.mark.parametrize("kind", KINDS)
def test_random_programs_are_equal_with_exact(kind: type[Generator], native: NativeRunner,
                                              ringlet_exact: Engine) -> None:
    programs = random_programs(50, 300, kind=kind)
    report = run_campaign(native, ringlet_exact, programs, keep=3)
    assert not report.different, _summary(report)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("paging", Paging)
def test_random_programs_are_equal_outside_ia32e_mode(
        kind: type[Generator], paging: Paging, native: NativeRunner,
        legacy: Callable[[Paging], LegacyRunner]) -> None:
    report = run_campaign(native, legacy(paging), random_programs(60, 300, kind=kind), keep=3)
    assert not report.different, _summary(report)


def test_random_programs_at_cpl_0_are_equal(native: NativeRunner) -> None:
    with Ring0Runner() as engine:
        programs = random_programs(70, 1000, kind=Ring0Generator)
        report = run_campaign(native, engine, programs, keep=3)
    assert not report.different, _summary(report)


@pytest.mark.parametrize("kind", KINDS)
def test_programs_with_wild_addresses_are_equal(kind: type[Generator], native: NativeRunner,
                                                ringlet: Engine) -> None:
    programs = random_programs(99, 500, Style(wild=0.3), kind)
    report = run_campaign(native, ringlet, programs, keep=3)
    assert not report.different, _summary(report)


class TestParts:
    @pytest.mark.parametrize("kind", KINDS)
    def test_every_form_can_be_generated(self, kind: type[Generator]) -> None:
        made = sum(1 for _ in form_programs(1, kind=kind))
        assert made > len(forms.table(kind.bits))

    @pytest.mark.parametrize("name", ["INC_R32", "PUSHAD", "AAM_IMM8", "JMP_REL16"])
    def test_forms_of_this_mode_alone_are_there(self, name: str) -> None:
        assert name in {f.name for f in forms.table(32)}
        assert name not in {f.name for f in forms.table(64)}

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("seed", range(10))
    def test_a_program_survives_its_corpus_form(self, seed: int, kind: type[Generator]) -> None:
        before = random_program(random.Random(seed), kind=kind)
        after = from_text(to_text(before))
        assert (after.bits, after.origin, after.code) == (kind.bits, before.origin, before.code)
        assert replace(after.state, xsave=b"") == replace(before.state, xsave=b"")

    def test_operands_have_16_bit_addresses_and_segments(self) -> None:
        programs = random_programs(3, 400, kind=NarrowGenerator)
        code = [i for p in programs for i in Decoder(32, p.code)]
        assert sum(1 for i in code if i.memory_displ_size == 2) > 10
        assert sum(1 for i in code if i.has_segment_prefix) > 100


class TestNative:
    def test_the_code_is_32_bit(self, native: NativeRunner) -> None:
        p = program("48", "0506000000", eax=1)  # dec eax (in 64-bit code REX.W); add eax, 6
        outcome = native.run([p])[0]
        assert (outcome.vector, outcome.state.rip) == (3, p.starts[-1] + 1)
        assert (outcome.state.gpr[0], outcome.state.selectors) == (6, SELECTORS_32)

    def test_a_segment_has_its_base(self, native: NativeRunner) -> None:
        p = program("64a110000000")  # mov eax, fs:[10h]
        at = layout.DATA.linear
        state = State(fs_base=at, selectors=SELECTORS_32)
        outcome = native.run([Program(p.items, state=state, bits=32)])[0]
        start = layout.image_offset(at + 16)
        expected = int.from_bytes(layout.BASE_IMAGE[start:start + 4], "little")
        assert (outcome.vector, outcome.state.gpr[0]) == (3, expected)

    def test_an_access_beyond_the_limit_is_a_general_protection_fault(
            self, native: NativeRunner) -> None:
        outcome = native.run([program("8b00", eax=0xFFFF_FFFE)])[0]
        assert (outcome.vector, outcome.error, outcome.state.rip) == (13, 0, layout.CODE.linear)

    @pytest.mark.parametrize(("code", "vector"), [("d400", 0), ("ce", 4), ("62 0500000020", 5),
                                                  ("8d c0", 6)])
    def test_faults_of_this_mode(self, native: NativeRunner, code: str, vector: int) -> None:
        p = program(code, eax=0x7000_0000)
        state = State(gpr=p.state.gpr, rflags=0xA02, selectors=SELECTORS_32)
        assert native.run([Program(p.items, state=state, bits=32)])[0].vector == vector

    def test_a_segment_begins_at_its_base_and_ends_at_its_limit(
            self, native: NativeRunner) -> None:
        p = program("a10040", "a1ffff")  # mov ax, [4000h]; mov ax, [0FFFFh]
        state = State(rip=0, selectors=SELECTORS_16)
        outcome = native.run([Program(p.items, state=state, bits=16)])[0]
        start = layout.image_offset(layout.DATA.linear)
        expected = int.from_bytes(layout.BASE_IMAGE[start:start + 2], "little")
        assert (outcome.vector, outcome.state.rip, outcome.state.gpr[0]) == (13, 3, expected)

    def test_a_16_bit_stack_wraps_and_keeps_the_high_half_of_esp(
            self, native: NativeRunner) -> None:
        esp = STACK_HIGH << 16
        state = State((0, 0, 0, 0, esp, *[0] * 11), 0, selectors=tuple(
            SELECTOR["top16"] if name == "ss" else s
            for name, s in zip(SEGMENTS, SELECTORS_16, strict=True)))
        outcome = native.run([Program((Item(raw=b"\x50"),), state=state, bits=16)])[0]
        assert (outcome.vector, outcome.state.gpr[4]) == (3, esp | 0xFFFE)

    @pytest.mark.parametrize("kind", KINDS)
    def test_the_host_agrees_with_itself(self, native: NativeRunner,
                                         kind: type[Generator]) -> None:
        with NativeRunner() as other:
            report = run_campaign(native, other, random_programs(7, 1500, kind=kind))
        assert report.different == 0
        assert report.vectors[3] > report.programs / 3
        assert min(report.vectors[v] for v in (1, 13, 14)) > 0


class TestSegments:
    """The guest's table is the host's (Linux's fill_ldt, asm/desc.h)."""

    @pytest.mark.parametrize("segment", TABLE, ids=lambda s: s.name)
    def test_a_descriptor_says_what_the_segment_does(self, segment: Segment) -> None:
        value = int.from_bytes(segment.descriptor, "little")
        assert (value >> 16 & 0xFFFFFF) | value >> 56 << 24 == segment.base
        assert (value >> 40 & 0xF0FF) == segment.rights
        limit = (value & 0xFFFF) | (value >> 48 & 0xF) << 16
        assert (limit << 12 | 0xFFF if value >> 55 & 1 else limit) == segment.limit

    def test_an_expand_down_segment_is_above_its_limit(self) -> None:
        segment = NAMED["down16"]
        inside = [segment.holds(offset, 2) for offset in (0, 0xA7FF, 0xA800, 0xFFFE, 0xFFFF)]
        assert inside == [False, False, True, True, False]
