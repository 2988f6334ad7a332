"""The translator as a pure function: the ends, dependencies and contents of fragments."""

from itertools import pairwise

import pytest
from iced_x86 import Code, Decoder, FlowControl, OpKind
from tests.unit.translate.install import AT, OP_INFO, STUBS, WIDE, bare, installed

from ringlet.core import state
from ringlet.core.ops import Op
from ringlet.translate.translator import (
    BLOCK,
    KEYS,
    SLOTS,
    Relocation,
    Translation,
    Translator,
)

RING_0 = KEYS["mode64"]
RING_3 = KEYS["mode64"] | 3
LINEAR = 0x401000
KERNEL = 0xFFFFFFFF81000000
FAR = 0xFFFF888000123000

# One of each kind of operand and exit.
VARIED = bytes.fromhex(
    "488b07 4c8b4808 488b0500010000 65488b042528000000 488b042500100000 4889e0 4889c4 480fa307"
    "f348ab fa 9c 0fa2 7410 8827 488944cf08 50 4159 c9 48c7c700000081 65ff0500000000 e800000000"
)


def translate(
    code: str | bytes,
    linear: int = LINEAR,
    key: int = RING_0,
    limit: int = 0,
    indirect: bool = False,
    speculate: bool = True,
    checked: bool = False,
) -> Translation:
    data = bytes.fromhex(code) if isinstance(code, str) else code
    return Translator(speculate=speculate).translate(data, linear, key, limit, indirect, checked)


def compares_with_window(translation: Translation) -> bool:
    return b"\x45\x39\xd0" in translation.code  # cmp r8d, r10d


LOAD = "488b07"  # mov rax, [rdi]


@pytest.mark.parametrize(
    ("code", "dead"),
    [
        (LOAD + "31c9", True),  # xor ecx, ecx
        (LOAD + "0f92c0", False),  # setb al
        (LOAD + "c3", False),  # a return's target may read them
        (LOAD, False),  # what follows is not known
        (LOAD + "89c8 31c9", True),
        (LOAD + "ffc1 31c9", True),  # inc does not kill CF, xor does
        (LOAD + "ffc1 11c9", False),  # inc; adc reads CF
        (LOAD + "d3e0 31c9", True),
        (LOAD + "d3e0 7400", False),  # a shift by CL may change nothing
        (LOAD + "c1e000 7400", False),  # by 0 as well
        (LOAD + "7402 31c9", False),  # the jump itself reads ZF
        (LOAD + "eb02 7400 31c9", True),  # jmp over the reader
        (LOAD + "eb02 31c9 7400", False),
        (LOAD + "eb00 31c9", True),
        (LOAD + "e802000000 7400 31c9", True),  # into the called function
        (LOAD + "e802000000 31c9 0f92c0", False),
        (LOAD + "ffe0", False),
        (LOAD + "fa 31c9", False),  # a sensitive instruction stores them
        (LOAD + "0f1f00 31c9", True),
        (LOAD + "f3a4 31c9", True),
        (LOAD + "f3a6 7400", False),  # repe cmps may do nothing
        (LOAD + "9e 7400", False),  # sahf leaves OF
        (LOAD + "0fb6c0 85c0", True),
    ],
)
def test_window_is_compared_where_flags_are_dead(code: str, dead: bool) -> None:
    translation = translate(code)

    assert compares_with_window(translation) == dead


@pytest.mark.parametrize(
    ("falls_through", "taken", "dead"),
    [
        ("31c9", "31c9", True),
        ("31c9", "0f92c0", False),
        ("0f92c0", "31c9", False),
    ],
    ids=["both kill CF", "taken reads CF", "not taken reads CF"],
)
def test_flags_are_dead_only_if_both_ways_of_a_branch_kill_them(
    falls_through: str, taken: str, dead: bool
) -> None:
    # mov rax, [rdi]; dec ecx, which leaves CF; jne taken
    after = bytes.fromhex(falls_through + "c3")
    code = bytes.fromhex(LOAD + "ffc9 75") + bytes([len(after)]) + after + bytes.fromhex(taken)

    assert compares_with_window(translate(code)) == dead


def test_flag_liveness_looks_a_dozen_instructions_ahead() -> None:
    near = translate(LOAD + "eb00" + "90" * 11 + "31c9")
    far = translate(LOAD + "eb00" + "90" * 12 + "31c9")

    assert compares_with_window(near)
    assert not compares_with_window(far)


def test_no_speculation_never_compares() -> None:
    assert not compares_with_window(translate(LOAD + "31c9", speculate=False))


# --- where fragments end


@pytest.mark.parametrize(
    ("code", "instructions", "links"),
    [
        ("90 c3 90", 2, []),
        ("90 eb05 90", 2, [LINEAR + 8]),
        ("90 e805000000 90", 2, [LINEAR + 11]),
        ("90 7405 90", 3, [LINEAR + 8, LINEAR + 4]),
        ("90 e205 90", 2, [LINEAR + 8, LINEAR + 3]),
        ("90 e305 90", 2, [LINEAR + 3, LINEAR + 8]),
        ("90 ffe0 90", 2, []),
        ("90 ffd0 90", 2, []),
        ("90 0f05 90", 2, []),
        ("90 0f0b 90", 2, []),
        ("90 0fa2 90", 3, [LINEAR + 4]),
        ("90 0f22d8 90", 3, [LINEAR + 5]),
        ("90 06 90", 2, []),
        ("90 90", 2, [LINEAR + 2]),
    ],
)
def test_fragment_ends(code: str, instructions: int, links: list[int]) -> None:
    translation = translate(code)

    assert translation.guest_instructions == instructions
    assert [target for _, target in translation.links] == links


def test_fragment_has_at_most_96_instructions() -> None:
    translation = translate(bytes([0x90]) * 200)

    assert (translation.guest_instructions, translation.guest_bytes) == (96, 96)
    assert translation.links[-1][1] == LINEAR + 96


def test_limit_is_honoured() -> None:
    assert translate("90" * 10, limit=3).guest_bytes == 3


def test_fragment_ends_before_an_instruction_that_is_cut() -> None:
    translation = translate("90 488b")

    assert (translation.guest_bytes, translation.links[-1][1]) == (1, LINEAR + 1)


def test_address_size_shortens_an_absolute_operand() -> None:
    assert translate("67a000000000").guest_bytes == 6  # mov al, [0] with a 32-bit address


@pytest.mark.parametrize("code", ["48", "488b", "e80000", "66666666", "c5f8", "67a0000000"])
def test_first_instruction_must_be_whole(code: str) -> None:
    with pytest.raises(ValueError, match="past the given bytes"):
        translate(code)


def test_no_bytes_are_no_fragment() -> None:
    with pytest.raises(ValueError, match="no bytes"):
        translate("")


def test_large_fragment_is_cut_where_it_is_full() -> None:
    # 96 string instructions take more code than one fragment may have entries or bytes for.
    translation = translate("48a5" * 96)

    assert translation.guest_bytes == 2 * translation.guest_instructions
    assert len(translation.code) < 24576


def test_more_than_15_bytes_are_undefined() -> None:
    translation = translate("66" * 15 + "90")

    assert translation.operations == ((0, Op.OP_UD),)
    assert translation.guest_bytes == 15


# --- the key


@pytest.mark.parametrize("privilege", [0, 1])
def test_tables_are_the_privileges(privilege: int) -> None:
    key = (RING_0, RING_3)[privilege]
    translation = translate("488b07 488b0500010000 488b042500100000 c3", key=key)

    state_fields = {v for _, kind, v in translation.relocations if kind == Relocation.STATE}
    assert state_fields == {SLOTS[privilege]}


def test_slot_entry_is_the_privileges_when_installed() -> None:
    translation = translate("488b0500010000", linear=KERNEL, key=RING_3)

    code = installed(translation, KERNEL)

    entry = BLOCK + SLOTS[1] + 0xFFFF * 8
    assert code.startswith(b"\x4c\x8b\x04\x25" + entry.to_bytes(4, "little"))


@pytest.mark.parametrize(
    ("bits", "code", "operation"),
    [
        (["nm"], "0f28c1", Op.OP_NM),  # movaps
        (["nm"], "d9e8", Op.OP_NM),  # fld1
        (["nm"], "c5f858c2", Op.OP_NM),  # vaddps
        (["nm"], "0f77", Op.OP_NM),  # emms
        (["nosse"], "0f28c1", Op.OP_UD),
        (["nosse", "nm"], "0f28c1", Op.OP_UD),
        (["noavx"], "c5f858c2", Op.OP_UD),
        (["noavx", "nm"], "c5f858c2", Op.OP_UD),
        (["nm", "em"], "0f28c1", Op.OP_UD),
        (["nm", "em"], "d9e8", Op.OP_NM),
    ],
)
def test_unit_that_is_off_leaves(bits: list[str], code: str, operation: Op) -> None:
    key = RING_0 | sum(KEYS[bit] for bit in bits)

    translation = translate("90" + code + "90", key=key)

    assert translation.operations == ((1, operation),)
    assert translation.guest_instructions == 2


@pytest.mark.parametrize("code", ["90", "0fae1f", "f30fb8c1", "c4e2f8f2c1"])
def test_unit_that_is_off_does_not_concern_others(code: str) -> None:
    # nop; the integer instructions popcnt and andn; stmxcsr is SSE's
    key = RING_0 | KEYS["nm"]

    operations = [op for _, op in translate(code, key=key).operations]

    assert operations == ([Op.OP_NM] if code == "0fae1f" else [])


def test_stepping_takes_one_instruction() -> None:
    translation = translate("90 90 90", key=RING_0 | KEYS["step"])

    assert translation.guest_instructions == 1
    assert translation.links[0][1] == LINEAR + 1


@pytest.mark.parametrize(
    ("key", "operations"),
    [(RING_0, 0), (RING_3, 2), (RING_0 | KEYS["step"], 1)],
    ids=["CPL 0", "CPL 3", "stepping"],
)
def test_cli_and_pushf_are_inlined_at_cpl_0(key: int, operations: int) -> None:
    assert len(translate("fa 9c", key=key).operations) == operations


# --- the contents of a translation


@pytest.mark.parametrize("linear", [LINEAR, KERNEL, FAR])
@pytest.mark.parametrize("key", [RING_0, RING_3])
@pytest.mark.parametrize("indirect", [False, True])
def test_installed_code_decodes_and_branches_to_what_it_may(
    linear: int, key: int, indirect: bool
) -> None:
    translation = translate(VARIED, linear, key, indirect=indirect)
    code = installed(translation, linear)

    instructions = list(Decoder(64, code, ip=AT))

    starts = {i.ip for i in instructions}
    targets = {i.near_branch_target for i in instructions if _branches(i.op0_kind)}
    unlinked = {AT + at + 4 for at, _ in translation.links}
    assert all(i.code != Code.INVALID for i in instructions)
    assert instructions[-1].next_ip == AT + len(code)
    assert targets <= starts | set(STUBS.values()) | unlinked
    assert not any(i.flow_control == FlowControl.CALL for i in instructions)


def _branches(kind: int) -> bool:
    return kind == OpKind.NEAR_BRANCH64


def test_every_kind_of_relocation_is_used_and_in_bounds() -> None:
    far = translate(VARIED, FAR, indirect=True)
    near = translate(VARIED, LINEAR, indirect=True)
    checked = translate(VARIED, LINEAR, checked=True)
    returning = translate("c3")

    kinds = {kind for t in (far, near, checked, returning) for _, kind, _ in t.relocations}

    assert kinds == set(Relocation)


@pytest.mark.parametrize("checked", [False, True])
def test_relocated_fields_do_not_overlap(checked: bool) -> None:
    translation = translate(VARIED, FAR, indirect=True, checked=checked)

    fields = sorted((at, 8 if kind in WIDE else 4) for at, kind, _ in translation.relocations)

    assert all(at + size <= after for (at, size), (after, _) in pairwise(fields))


def test_operation_is_named_by_its_relocation() -> None:
    translation = translate("0fa2 0f31")

    code = installed(translation, LINEAR)

    stores = [i for i in Decoder(64, code) if i.code == Code.MOV_RM64_IMM32]
    assert [i.immediate(1) for i in stores] == [OP_INFO, OP_INFO + 0x40]
    assert {i.memory_displacement for i in stores} == {BLOCK + state.offsets()["op_info"]}


@pytest.mark.parametrize("linear", [LINEAR, KERNEL, FAR])
def test_map_is_sorted_and_in_bounds(linear: int) -> None:
    translation = translate(VARIED, linear, indirect=True)

    hosts = [host for host, _ in translation.map]

    assert hosts == sorted(hosts)
    assert hosts[-1] <= len(translation.code)
    assert max(guest for _, guest in translation.map) == translation.guest_bytes


def test_map_names_each_instruction() -> None:
    translation = translate("90 488b07 31c9 c3")

    in_line = {guest for host, guest in translation.map if host < translation.cold}

    assert in_line == {0, 1, 4, 6}


def test_map_names_the_instruction_of_a_miss() -> None:
    translation = translate("90 488b07 31c9 c3")

    cold = [g for h, g in translation.map if h >= translation.cold]

    assert cold[0] == 1


def test_links_lead_nowhere_until_they_are_installed() -> None:
    translation = translate("7402 7502 90")

    fields = [translation.code[at : at + 4] for at, _ in translation.links]
    assert fields == [bytes(4)] * 3


def test_translation_is_deterministic() -> None:
    one = Translator()
    other = Translator()
    other.translate(bytes.fromhex("0fa2c3"))

    translations = [
        t.translate(VARIED, linear=LINEAR, indirect=True) for t in (one, other, one, other)
    ]

    assert translations.count(translations[0]) == 4


@pytest.mark.parametrize(
    ("one", "other"),
    [(LINEAR, 0x12345000), (LINEAR, KERNEL), (KERNEL, 0xFFFFFFFFFFFF0000), (FAR, 0x7FFFF7DD1000)],
)
def test_translation_depends_on_its_address_only_by_relocations(one: int, other: int) -> None:
    here = translate(VARIED, one, indirect=True)
    there = translate(VARIED, other, indirect=True)

    assert bare(here) == bare(there)
    assert here.relocations == there.relocations
    assert here.map == there.map
    assert installed(here, other) == installed(there, other)


def test_shapes_are_learned_once() -> None:
    translator = Translator()
    translator.translate(VARIED)
    known = translator.shapes

    translator.translate(VARIED)

    assert translator.shapes == known > 0
