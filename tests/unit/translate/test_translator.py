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


def loses_flags(translation: Translation) -> bool:
    return SUB in translation.code  # not SUB of the guest's own RSP, which sets the flags


def predicts(translation: Translation) -> bool:
    return any(kind == Relocation.PREDICTED for _, kind, _ in translation.relocations)


CHAIN = "488b3f 4885ff 75f8 31c9 c3"  # 1: mov rdi, [rdi]; test rdi, rdi; jne 1b
SUB = bytes.fromhex("4883ec08")  # sub rsp, 8
MOVE = SUB.hex()


@pytest.mark.parametrize(
    ("code", "dead"),
    [
        (MOVE + "31c9", True),  # xor ecx, ecx
        (MOVE + "0f92c0", False),  # setb al
        (MOVE + "c3", False),  # a return's target may read them
        (MOVE, False),  # what follows is not known
        (MOVE + "89c8 31c9", True),
        (MOVE + "ffc1 31c9", True),  # inc does not kill CF, xor does
        (MOVE + "ffc1 11c9", False),  # inc; adc reads CF
        (MOVE + "d3e0 31c9", True),
        (MOVE + "d3e0 7400", False),  # a shift by CL may change nothing
        (MOVE + "c1e000 7400", False),  # by 0 as well
        (MOVE + "7402 31c9", False),  # the jump itself reads ZF
        (MOVE + "eb02 7400 31c9", True),  # jmp over the reader
        (MOVE + "eb02 31c9 7400", False),
        (MOVE + "eb00 31c9", True),
        (MOVE + "e802000000 7400 31c9", True),  # into the called function
        (MOVE + "e802000000 31c9 0f92c0", False),
        (MOVE + "ffe0", False),
        (MOVE + "fa 31c9", False),  # a sensitive instruction stores them
        (MOVE + "0f1f00 31c9", True),
        (MOVE + "f3a4 31c9", True),
        (MOVE + "f3a6 7400", False),  # repe cmps may do nothing
        (MOVE + "9e 7400", False),  # sahf leaves OF
        (MOVE + "0fb6c0 85c0", True),
    ],
)
def test_flags_are_lost_where_they_are_dead(code: str, dead: bool) -> None:
    translation = translate(code)

    assert loses_flags(translation) == dead


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
    # sub rsp, 8; dec ecx, which leaves CF; jne taken
    after = bytes.fromhex(falls_through + "c3")
    code = bytes.fromhex(MOVE + "ffc9 75") + bytes([len(after)]) + after + bytes.fromhex(taken)

    assert loses_flags(translate(code)) == dead


def test_flag_liveness_looks_a_dozen_instructions_ahead() -> None:
    near = translate(MOVE + "eb00" + "90" * 11 + "31c9")
    far = translate(MOVE + "eb00" + "90" * 12 + "31c9")

    assert loses_flags(near)
    assert not loses_flags(far)


def test_no_speculation_predicts_nothing_and_keeps_all_flags() -> None:
    assert not loses_flags(translate(MOVE + "31c9", speculate=False))
    assert not predicts(translate(CHAIN, speculate=False))


@pytest.mark.parametrize(
    ("code", "predicted"),
    [
        ("488b3f 4885ff 75f8", True),  # 1: mov rdi, [rdi]; test rdi, rdi; jne 1b
        ("48034708 488b3f 48ffce 75f4", True),  # 1: add rax, [rdi + 8]; mov rdi, [rdi]; dec rsi
        ("488b3f 4885ff 75f8 4889f7", True),  # behind the loop: mov rdi, rsi
        ("488b07 4883c708 ffc9 75f5", False),  # an array: RDI does not come from memory
        ("488b3f 488b3f 4885ff", False),  # no loop
        ("488b07 4839d0 480f454708 4889c7 85c9 75ee", True),  # left or right: cmovne; mov rdi, rax
        ("488b3f 7400 4885ff 75f6", False),  # flags are live
    ],
)
def test_slots_of_a_chain_of_pointers_are_predicted(code: str, predicted: bool) -> None:
    assert predicts(translate(code + "31c9 c3")) == predicted


@pytest.mark.parametrize(
    ("code", "looked_up"),
    [
        ("488b0e 4863c9 488b044e 488b144e c3", 1),  # movsxd rcx, ecx; [rsi + rcx*2] twice
        ("488b0e 488b044e 488b144e c3", 2),  # the same without it: RSI, and the sum once
        ("488b0e 4863c9 48ffc1 488b044e c3", 2),  # inc rcx
        ("89c9 488b044c c3", 0),  # mov ecx, ecx; [rsp + rcx*2]
        ("4863c9 488b044c c3", 1),  # movsxd rcx, ecx; [rsp + rcx*2]: the sum
        ("488b07 488b1e 488b4f08 488b5608 c3", 2),  # [rdi], [rsi], [rdi + 8], [rsi + 8]
        ("488b07 488b1e 488b0b 488b5708 c3", 3),  # [rdi], [rsi], [rbx], [rdi + 8]
        ("488b07 4889fb 4883c310 488b0b c3", 1),  # [rdi]; mov rbx, rdi; add rbx, 16; [rbx]
    ],
)
@pytest.mark.parametrize("speculate", [True, False])
def test_slots_are_looked_up_once(code: str, looked_up: int, speculate: bool) -> None:
    lookups = [
        i
        for i in Decoder(64, translate(code, speculate=speculate).code)
        if i.code == Code.VEX_RORX_R64_RM64_IMM8 and i.immediate8 == 36
    ]

    assert len(lookups) == looked_up


def test_instructions_of_a_page_have_their_own_predictions() -> None:
    first, second = (
        {t.code[at : at + 4] for at, kind, _ in t.relocations if kind == Relocation.PREDICTED}
        for t in (translate(CHAIN, linear) for linear in (0x401000, 0x401800))
    )

    assert not first & second


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
    chain = translate(CHAIN)

    kinds = {kind for t in (far, near, checked, returning, chain) for _, kind, _ in t.relocations}

    assert kinds == set(Relocation)


@pytest.mark.parametrize("checked", [False, True])
def test_relocated_fields_do_not_overlap(checked: bool) -> None:
    translation = translate(VARIED, FAR, indirect=True, checked=checked)

    fields = sorted((at, 8 if kind in WIDE else 4) for at, kind, _ in translation.relocations)

    assert all(at + size <= after for (at, size), (after, _) in pairwise(fields))


def test_operation_is_named_by_its_relocation() -> None:
    translation = translate("0fa2 0fa2")

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
    translation = translate("90 488b3f 4885ff 75f7 31c9 c3")

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
