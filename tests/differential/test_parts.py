"""Tests of the parts of the differential test itself."""
from __future__ import annotations

import itertools
import random
from dataclasses import replace

import pytest
from iced_x86 import Code, Decoder

from tests.differential import forms, guest, layout, xsave
from tests.differential.campaign import (
    Divergence,
    form_programs,
    from_corpus,
    random_programs,
    run_campaign,
)
from tests.differential.compare import comparable_flags, compare
from tests.differential.departure import Departure, as_departed
from tests.differential.generate import random_program
from tests.differential.liveness import ARITHMETIC, flags_live_at, live_in
from tests.differential.native import NativeRunner
from tests.differential.program import Item, Outcome, Program, State, Status, from_text, to_text
from tests.differential.shrink import shrink

CF, ZF, OF = 0x1, 0x40, 0x800


def program(*lines: str, **state: object) -> Program:
    """A program of raw instructions at the start of the code area."""
    items = tuple(Item(raw=bytes.fromhex(line)) for line in lines)
    stack = State(gpr=(0, 0, 0, 0, layout.STACK.linear + 0x2000, *[0] * 11))
    return Program(items, state=replace(stack, **state))  # type: ignore[arg-type]


def decode(code: str) -> list[object]:
    return list(Decoder(64, bytes.fromhex(code)))


class TestLayout:
    def test_areas_do_not_touch(self) -> None:
        areas = sorted(layout.AREAS.values(), key=lambda a: a.linear)
        gaps = [b.linear - a.end for a, b in itertools.pairwise(areas)]
        assert min(gaps) >= layout.PAGE

    def test_holes_are_in_no_area(self) -> None:
        assert [h for h in layout.HOLES if layout.area_at(h)] == []

    def test_non_canonical_addresses_are(self) -> None:
        assert all(0x8000_0000_0000 <= a < 0xFFFF_8000_0000_0000 for a in layout.NON_CANONICAL)

    def test_guest_maps_every_page_of_the_image(self) -> None:
        memory = guest.memory()
        assert len(memory) == guest.IMAGE + layout.IMAGE_SIZE
        assert memory[guest.IMAGE:] == layout.BASE_IMAGE


class TestLiveness:
    def test_a_flag_that_add_overwrites_is_dead(self) -> None:
        assert live_in(decode("4801d8")) == 0  # type: ignore[arg-type]

    def test_adc_reads_carry_first(self) -> None:
        assert live_in(decode("4811d8")) == CF  # type: ignore[arg-type]

    def test_inc_keeps_carry(self) -> None:
        assert live_in(decode("48ffc0 90")) == CF  # type: ignore[arg-type]

    def test_shift_by_cl_may_keep_all(self) -> None:
        assert live_in(decode("48d3e0")) == ARITHMETIC  # type: ignore[arg-type]

    def test_shift_by_zero_keeps_all(self) -> None:
        assert live_in(decode("48c1e000")) == ARITHMETIC  # type: ignore[arg-type]

    def test_rep_string_may_keep_all(self) -> None:
        assert live_in(decode("f3a6")) == ARITHMETIC  # type: ignore[arg-type]

    def test_a_branch_ends_the_straight_line(self) -> None:
        assert live_in(decode("7400 4801d8")) == ARITHMETIC  # type: ignore[arg-type]

    def test_flags_live_at_looks_from_that_instruction(self) -> None:
        p = program("4801d8", "488b00", "0f94c1")
        assert flags_live_at(p.code, p.origin, p.starts[1]) == ARITHMETIC
        assert flags_live_at(p.code, p.origin, p.starts[0]) == 0


class TestDeparture:
    """RET to an address that is not canonical, from the host's outcome."""

    AT = layout.STACK.linear + 0x100
    TARGET = 0x8000_0000_0000_0000

    def host(self, code: str, rsp: int) -> tuple[Program, Outcome]:
        page, offset = divmod(layout.image_offset(rsp), layout.PAGE)
        start = page * layout.PAGE
        data = bytearray(layout.BASE_IMAGE[start:start + layout.PAGE])
        data[offset:offset + 8] = self.TARGET.to_bytes(8, "little")
        state = State(gpr=(0,) * 4 + (rsp,) + (0,) * 11)
        return program(code), Outcome(Status.EVENT, 13, state=state, pages={page: bytes(data)})

    def test_rip_is_the_target_and_rsp_has_moved(self) -> None:
        p, native = self.host("c20800", self.AT)
        departed = as_departed(p, native, Departure.AT_TARGET)
        assert departed is not None
        assert (departed.state.rip, departed.state.gpr[4]) == (self.TARGET, self.AT + 16)
        assert compare(p, native, departed, departs=Departure.AT_TARGET) == []
        assert compare(p, native, departed) != []

    def test_nothing_else_may_differ(self) -> None:
        p, native = self.host("c3", self.AT)
        departed = as_departed(p, native, Departure.AT_TARGET)
        assert departed is not None
        other = replace(departed, state=replace(departed.state, rflags=0x203))
        assert compare(p, native, other, departs=Departure.AT_TARGET) != []

    def test_another_instruction_does_not_depart(self) -> None:
        p, native = self.host("90", self.AT)
        assert as_departed(p, native, Departure.AT_TARGET) is None

    def test_a_canonical_target_does_not_depart(self) -> None:
        p, native = self.host("c3", self.AT)
        pages = {page: bytes(layout.PAGE) for page in native.pages}
        assert as_departed(p, replace(native, pages=pages), Departure.AT_TARGET) is None


class TestText:
    @pytest.mark.parametrize("seed", range(20))
    def test_a_program_survives_its_corpus_form(self, seed: int) -> None:
        before = random_program(random.Random(seed))
        after = from_text(to_text(before))
        assert after.code == before.code
        assert after.patches == before.patches
        assert after.state.gpr == before.state.gpr
        assert xsave.canonical(after.state.xsave) == xsave.canonical(before.state.xsave)

    def test_a_corpus_file_may_hold_programs_that_run_before(self) -> None:
        first, last = program("90"), program("4801d8")
        text = Divergence(last, ["rax: 0x1 / 0x2"], (first,)).text()
        assert [p.code for p in from_corpus(text)] == [first.code, last.code]

    def test_a_line_that_is_not_understood_is_named(self) -> None:
        with pytest.raises(ValueError, match="line 2"):
            from_text("origin 0x10000000\nnonsense\n")


class TestForms:
    def test_every_form_can_be_generated(self) -> None:
        made = sum(1 for _ in form_programs(seed=1))
        assert made > len(forms.table())

    def test_what_is_left_out_has_a_reason(self) -> None:
        compared = {f.code for f in forms.table()}
        without = [c for c in forms.all_codes() if c not in compared]
        assert all(forms.why_not(c) for c in without)

    @pytest.mark.parametrize("name", ["ADD_RM64_R64", "MOV_R64_RM64", "CMPSB_M8_M8",
                                      "MULX_R64_R64_RM64"])
    def test_common_forms_are_there(self, name: str) -> None:
        assert any(name in f.name for f in forms.table())

    def test_no_privileged_code_is_compared_as_plain(self) -> None:
        plain = forms.by_group()[forms.Group.PLAIN]
        assert not [f.name for f in plain if f.mnemonic in ("CLI", "HLT", "IN", "OUT")]
        assert Code.HLT in {f.code for f in forms.by_group()[forms.Group.TRAP]}
        assert "CPUID" not in {f.mnemonic for f in forms.table()}


class TestCompare:
    def test_equal_outcomes_have_no_difference(self) -> None:
        outcome = Outcome(Status.EVENT, 3)
        assert compare(program("90"), outcome, outcome) == []

    def test_a_register_that_differs_is_named(self) -> None:
        a = Outcome(Status.EVENT, 3)
        b = replace(a, state=State(gpr=(1, *[0] * 15)))
        assert compare(program("90"), a, b) == ["rax: 0x0 / 0x1"]

    def test_a_dead_flag_at_a_fault_is_not_compared(self) -> None:
        p = program("480118")  # add [rax], rbx
        fault = Outcome(Status.EVENT, 14, state=State(rip=p.origin))
        assert comparable_flags(p, fault) & ARITHMETIC == 0

    def test_all_flags_are_compared_at_the_end(self) -> None:
        p = program("4801d8")
        end = Outcome(Status.EVENT, 3, state=State(rip=p.starts[-1] + 1))
        assert comparable_flags(p, end) & ARITHMETIC == ARITHMETIC

    def test_memory_that_differs_is_named_by_its_linear_address(self) -> None:
        page = layout.DATA.offset // layout.PAGE
        base = layout.BASE_IMAGE[layout.DATA.offset:layout.DATA.offset + layout.PAGE]
        changed = bytes([base[0] ^ 1]) + base[1:]
        a = Outcome(Status.EVENT, 3)
        found = compare(program("90"), a, replace(a, pages={page: changed}))
        assert [f.split(":")[0] for f in found] == ["memory 0x20000000 (data)"]


class TestShrink:
    def test_it_keeps_what_makes_the_difference(self) -> None:
        p = program("90", "4801d8", "90", "0f0b", "90")
        small = shrink(p, lambda q: b"\x0f\x0b" in q.code)
        assert [i.raw for i in small.items] == [b"\x0f\x0b"]

    def test_it_makes_the_state_plain(self) -> None:
        p = program("90", rflags=0x2D7)
        assert shrink(p, lambda q: True).state.rflags == 0x202


class TestNative:
    def test_the_final_int3_is_the_normal_end(self, native: NativeRunner) -> None:
        p = program("48c7c002000000", "4801c0")
        outcome = native.run([p])[0]
        assert (outcome.vector, outcome.state.rip) == (3, p.starts[-1] + 1)
        assert outcome.state.gpr[0] == 4

    def test_a_page_fault_gives_its_address_and_error_code(self, native: NativeRunner) -> None:
        p = program("48c7c000600020", "488908")  # mov [read-only page], rcx
        outcome = native.run([p])[0]
        assert (outcome.vector, outcome.error, outcome.cr2) == (14, 7, 0x20006000)
        assert outcome.state.rip == p.starts[1]

    def test_a_non_canonical_address_is_a_general_protection_fault(
            self, native: NativeRunner) -> None:
        outcome = native.run([program("48b80000000000008000", "488b00")])[0]
        assert (outcome.vector, outcome.error) == (13, 0)

    def test_a_division_by_zero_is_vector_0(self, native: NativeRunner) -> None:
        assert native.run([program("31c9", "f7f1")])[0].vector == 0

    def test_a_system_call_does_not_reach_the_host(self, native: NativeRunner) -> None:
        p = program("b83c000000", "0f05")  # exit
        outcome = native.run([p])[0]
        assert (outcome.status, outcome.vector) == (Status.EVENT, 0x100)

    def test_the_trap_flag_stops_after_one_instruction(self, native: NativeRunner) -> None:
        p = program("90", "90", rflags=0x302)
        outcome = native.run([p])[0]
        assert (outcome.vector, outcome.state.rip) == (1, p.starts[1])

    def test_an_endless_loop_times_out(self, native: NativeRunner) -> None:
        outcomes = native.run([program("ebfe"), program("90")])
        assert [o.status for o in outcomes] == [Status.TIMEOUT, Status.EVENT]

    def test_memory_is_fresh_for_each_program(self, native: NativeRunner) -> None:
        store = program("48c7c000000020", "488908")
        outcomes = native.run([store, program("90")])
        page = layout.DATA.offset // layout.PAGE
        assert page in outcomes[0].pages
        assert page not in outcomes[1].pages

    def test_vector_state_is_loaded_and_stored(self, native: NativeRunner) -> None:
        image = xsave.make([bytes([i]) * 32 for i in range(16)])
        p = program("c5fc28c8", xsave=image)  # vmovaps ymm1, ymm0
        after = xsave.canonical(native.run([p])[0].state.xsave)
        assert xsave.ymm(after, 1) == bytes(32)
        assert xsave.ymm(after, 15) == bytes([15]) * 32

    def test_the_host_agrees_with_itself(self, native: NativeRunner) -> None:
        with NativeRunner() as other:
            report = run_campaign(native, other, random_programs(seed=7, count=1500))
        assert report.different == 0
        assert report.vectors[3] > report.programs / 2
        assert min(report.vectors[v] for v in (0, 1, 6, 13, 14)) > 0
