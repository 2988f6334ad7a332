"""32-bit code: Ringlet against the host processor, and the parts that only such programs have."""
from __future__ import annotations

import random

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
from tests.differential.generate import Style, random_program
from tests.differential.narrow.generate import NarrowGenerator
from tests.differential.native import NativeRunner
from tests.differential.program import (
    SELECTORS_32,
    Item,
    Program,
    State,
    from_text,
    to_text,
)


def _summary(report: Report) -> str:
    return "\n\n".join(d.text() for d in report.divergences.values())


def program(*lines: str, **registers: int) -> Program:
    """A program of 32-bit code at the start of the code area."""
    names = ("eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi")
    gpr = (*(registers.get(n, 0) for n in names), *[0] * 8)
    return Program(tuple(Item(raw=bytes.fromhex(line)) for line in lines), bits=32,
                   state=State(gpr, selectors=SELECTORS_32))


@pytest.mark.parametrize("seed", range(3))
def test_random_programs_are_equal(seed: int, native: NativeRunner, ringlet: Engine) -> None:
    programs = random_programs(seed, 1000, kind=NarrowGenerator)
    report = run_campaign(native, ringlet, programs, keep=3)
    assert not report.different, _summary(report)


def test_every_form_is_equal(native: NativeRunner, ringlet: Engine) -> None:
    report = run_campaign(native, ringlet, form_programs(1, kind=NarrowGenerator), keep=3)
    assert not report.different, _summary(report)


def test_random_programs_are_equal_with_exact(native: NativeRunner, ringlet_exact: Engine) -> None:
    programs = random_programs(50, 1000, kind=NarrowGenerator)
    report = run_campaign(native, ringlet_exact, programs, keep=3)
    assert not report.different, _summary(report)


def test_programs_with_wild_addresses_are_equal(native: NativeRunner, ringlet: Engine) -> None:
    programs = random_programs(99, 1000, Style(wild=0.3), NarrowGenerator)
    report = run_campaign(native, ringlet, programs, keep=3)
    assert not report.different, _summary(report)


class TestParts:
    def test_every_form_can_be_generated(self) -> None:
        made = sum(1 for _ in form_programs(1, kind=NarrowGenerator))
        assert made > len(forms.table(32))

    @pytest.mark.parametrize("name", ["INC_R32", "PUSHAD", "AAM_IMM8", "JMP_REL16"])
    def test_forms_of_this_mode_alone_are_there(self, name: str) -> None:
        assert name in {f.name for f in forms.table(32)}
        assert name not in {f.name for f in forms.table(64)}

    @pytest.mark.parametrize("seed", range(20))
    def test_a_program_survives_its_corpus_form(self, seed: int) -> None:
        before = random_program(random.Random(seed), kind=NarrowGenerator)
        after = from_text(to_text(before))
        assert (after.bits, after.code, after.state.gpr) == (32, before.code, before.state.gpr)
        assert after.state.selectors == SELECTORS_32

    def test_operands_have_16_bit_addresses_and_segments(self) -> None:
        programs = random_programs(3, 400, kind=NarrowGenerator)
        code = [i for p in programs for i in Decoder(32, p.code)]
        assert sum(1 for i in code if i.memory_displ_size == 2) > 20
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

    def test_the_host_agrees_with_itself(self, native: NativeRunner) -> None:
        with NativeRunner() as other:
            report = run_campaign(native, other, random_programs(7, 1500, kind=NarrowGenerator))
        assert report.different == 0
        assert report.vectors[3] > report.programs / 2
        assert min(report.vectors[v] for v in (0, 1, 5, 6, 13, 14)) > 0
