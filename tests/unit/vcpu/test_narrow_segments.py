"""Segment registers and descriptor tables outside 64-bit mode."""

import itertools
import struct

import pytest

from ringlet.core.ops import Op
from tests.unit.vcpu.narrow import (
    CODE,
    DATA,
    DATA0,
    DS_REG,
    EMU_FAULT,
    EMU_FLOW,
    EMU_NEXT,
    ES_REG,
    FREE,
    GDT,
    GDT_LIMIT,
    GP,
    GS_REG,
    LDT_SEL,
    NAMES,
    NP,
    RAX,
    RBX,
    SS,
    SS_REG,
    START,
    TOP,
    TSS_SEL,
    UD,
    UNUSABLE,
    VM,
    ZF,
    Mode,
    Narrow,
    descriptor,
)
from tests.unit.vcpu.narrow_model import Fault, Kind, data_load, every_kind, stack_load, within

PARAGRAPHS = pytest.mark.parametrize("mode", [Mode.REAL, Mode.V86])
DESCRIBED = pytest.mark.parametrize("mode", [Mode.P16, Mode.P32, Mode.COMPAT])
TYPES = pytest.mark.parametrize("kind", range(32))


def load(b: Narrow, register: int, selector: int) -> int:
    b.set(rax=selector)
    return b.run(Op.OP_MOV_TO_SEG, reg=register, rm=RAX, code=b"\x8e\xd8")


def loads(mode: Mode, cpl: int, register: int, kind: int) -> dict[tuple[Kind, int], Fault]:
    """Load a register with every descriptor of a type and every RPL; return what was raised."""
    b = Narrow(mode, cpl)
    seen = {}
    for made, rpl in itertools.product(every_kind(range(kind, kind + 1)), range(4)):
        b.gdt(FREE, descriptor(made.access, DATA))
        seen[made, rpl] = b.outcome(load(b, register, FREE | rpl))
        b.enter(cpl)
    return seen


@TYPES
@pytest.mark.parametrize("cpl", [0, 1, 3])
@pytest.mark.parametrize("mode", [Mode.P16, Mode.COMPAT])
def test_every_descriptor_in_a_data_register(mode: Mode, cpl: int, kind: int) -> None:
    seen = loads(mode, cpl, ES_REG, kind)
    assert seen == {(k, rpl): data_load(k, FREE | rpl, cpl) for k, rpl in seen}


@TYPES
@pytest.mark.parametrize("cpl", [0, 1, 3])
@pytest.mark.parametrize("mode", [Mode.P32, Mode.COMPAT])
def test_every_descriptor_in_ss(mode: Mode, cpl: int, kind: int) -> None:
    seen = loads(mode, cpl, SS_REG, kind)
    assert seen == {(k, rpl): stack_load(k, FREE | rpl, cpl) for k, rpl in seen}


@DESCRIBED
def test_load_takes_base_limit_and_rights_and_marks_the_descriptor(mode: Mode) -> None:
    b = Narrow(mode)
    b.gdt(FREE, descriptor(0x92, 0x89123456, 0x12345, 0xC))
    assert load(b, DS_REG, FREE) == EMU_NEXT
    assert b.p.get_segment("ds") == (FREE, 0x89123456, 0x12345FFF, 0xC093)
    assert b.p.read_phys(GDT + FREE + 5, 1) == b"\x93"


@DESCRIBED
@pytest.mark.parametrize("register", [ES_REG, DS_REG, 4, GS_REG])
@pytest.mark.parametrize("selector", range(4))
def test_null_selector_makes_a_register_unusable(mode: Mode, register: int, selector: int) -> None:
    b = Narrow(mode)
    assert load(b, register, selector) == EMU_NEXT
    assert b.p.get_segment(NAMES[register]) == (selector, 0, 0, UNUSABLE)


@DESCRIBED
@pytest.mark.parametrize("cpl", [0, 3])
def test_null_selector_in_ss(mode: Mode, cpl: int) -> None:
    b = Narrow(mode, cpl)
    assert load(b, SS_REG, cpl) == EMU_FAULT
    assert b.fault() == (GP, 0)


@DESCRIBED
@pytest.mark.parametrize("selector", [GDT_LIMIT + 1, 0x1C])
def test_selector_beyond_its_table(mode: Mode, selector: int) -> None:
    b = Narrow(mode)
    assert load(b, DS_REG, selector) == EMU_FAULT
    assert b.fault() == (GP, selector)


@PARAGRAPHS
def test_paragraph_becomes_the_base(mode: Mode) -> None:
    b = Narrow(mode)
    for register in (ES_REG, SS_REG, DS_REG, 4, GS_REG):
        assert load(b, register, 0xFFFF) == EMU_NEXT
        assert b.p.get_segment(NAMES[register])[:2] == (0xFFFF, 0xFFFF0)


def test_real_mode_keeps_limit_and_rights() -> None:
    b = Narrow(Mode.REAL)
    b.p.set_segment("ds", 0x10, 0, 0xFFFFFFFF, 0xC093)
    load(b, DS_REG, 0x1234)
    assert b.p.get_segment("ds") == (0x1234, 0x12340, 0xFFFFFFFF, 0xC093)


def test_real_mode_makes_a_null_register_usable() -> None:
    b = Narrow(Mode.REAL)
    b.p.set_segment("ds", 0, 0, 0, UNUSABLE)
    load(b, DS_REG, 0)
    assert b.p.get_segment("ds") == (0, 0, 0xFFFF, 0x93)


def test_virtual_8086_mode_sets_limit_and_rights() -> None:
    b = Narrow(Mode.V86)
    b.p.set_segment("ds", 0x10, 0, 0xFFFFFFFF, 0xC093)
    load(b, DS_REG, 0x1234)
    assert b.p.get_segment("ds") == (0x1234, 0x12340, 0xFFFF, 0xF3)


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize(
    ("opcode", "name"), [(b"\xc4", "es"), (b"\xc5", "ds"), (b"\x0f\xb2", "ss")]
)
def test_far_pointer_is_loaded_from_its_segment(mode: Mode, opcode: bytes, name: str) -> None:
    b = Narrow(mode)
    selector = {"ss": 0x18}.get(name, DATA0)
    b.p.write_phys(DATA + 0x200, b"\x78\x56\x34\x12"[: mode.size] + struct.pack("<H", selector))
    assert b.run(Op.OP_LOAD_FAR, ea=0x200, reg=RBX, code=opcode + b"\x1e") == EMU_NEXT
    assert b.selector(name) == selector
    assert b.get("rbx") == 0x12345678 & ((1 << 8 * mode.size) - 1)


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("size", [2, 4])
def test_push_and_pop_of_a_segment(mode: Mode, size: int) -> None:
    b = Narrow(mode)
    selector = b.selector("ds")
    assert b.run(Op.OP_PUSH_SEG, size=size, code=b"\x1e") == EMU_NEXT
    assert b.get("rsp") == TOP - size
    assert b.pushed(1, size) == [selector]
    assert b.run(Op.OP_POP_SEG, size=size, code=b"\x07") == EMU_NEXT
    assert (b.get("rsp"), b.selector("es")) == (TOP, selector)


# --- accesses


LIMIT = 0x1234
OFFSETS = (0, LIMIT - 1, LIMIT, LIMIT + 1, LIMIT + 2, 0xFFFD, 0xFFFE, 0xFFFF, 0x10000, 0xFFFFFFFE)


@pytest.mark.parametrize("kind", range(0x10, 0x20))
@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("register", [DS_REG, SS_REG])
@pytest.mark.parametrize(("op", "size", "write"), [(Op.OP_SMSW, 2, True), (Op.OP_SGDT, 6, True),
                                                   (Op.OP_LMSW, 2, False)])  # fmt: skip
def test_every_type_and_limit(
    kind: int, big: bool, register: int, op: int, size: int, write: bool
) -> None:
    b = Narrow(Mode.P32)
    made = Kind(kind, 0, True)
    vector = SS if register == SS_REG else GP
    b.p.set_segment(NAMES[register], FREE, DATA, LIMIT, made.access | big << 14)
    seen = {at: b.outcome(b.run(op, ea=at, segment=register)) for at in OFFSETS}
    assert seen == {
        at: None if within(made, LIMIT, big, at, size, write) else (vector, 0) for at in OFFSETS
    }


def test_unusable_segment_refuses_every_access() -> None:
    b = Narrow(Mode.P32)
    b.p.set_segment("ds", 0, 0, 0, UNUSABLE)
    assert b.run(Op.OP_SMSW, ea=0) == EMU_FAULT
    assert b.fault() == (GP, 0)


def test_linear_address_wraps_at_4_gib() -> None:
    b = Narrow(Mode.P32)
    b.p.set_segment("ds", FREE, 0xFFFFF000, 0xFFFFFFFF, 0xC093)
    assert b.run(Op.OP_SMSW, ea=0x1000 + DATA) == EMU_NEXT
    assert b.words(DATA, 1, 2) == [0x11]


def test_unreal_mode_reaches_beyond_64_kib() -> None:
    b = Narrow(Mode.REAL)
    b.p.set_segment("ds", 0, 0, 0xFFFFFFFF, 0xC093)
    assert b.run(Op.OP_SMSW, ea=0x123456) == EMU_NEXT
    assert b.words(0x123456, 1, 2) == [0x10]


def test_real_mode_writes_through_cs_whatever_its_rights() -> None:
    b = Narrow(Mode.REAL)
    b.p.set_segment("cs", CODE >> 4, CODE, 0xFFFF, 0x9B)
    assert b.run(Op.OP_SMSW, ea=0x800, segment=1) == EMU_NEXT
    assert b.words(CODE + 0x800, 1, 2) == [0x10]


@PARAGRAPHS
def test_word_at_the_end_of_a_64_kib_segment(mode: Mode) -> None:
    b = Narrow(mode)
    assert b.run(Op.OP_SMSW, ea=0xFFFF) == EMU_FAULT
    assert b.fault() == (GP, 0)
    assert b.run(Op.OP_SMSW, ea=0xFFFF, segment=SS_REG) == EMU_FAULT
    assert b.fault() == (SS, 0)


# --- the stack


@pytest.mark.parametrize("size", [2, 4])
def test_16_bit_stack_pointer_wraps(size: int) -> None:
    b = Narrow(Mode.P16)
    b.set(rsp=0xABCD0000)
    assert b.run(Op.OP_PUSHF, size=size) == EMU_NEXT
    assert b.get("rsp") == 0xABCD0000 | 0x10000 - size


def test_push_that_straddles_the_end_of_a_16_bit_stack() -> None:
    b = Narrow(Mode.P16)
    b.set(rsp=1)
    assert b.run(Op.OP_PUSHF, size=2) == EMU_FAULT
    assert b.fault() == (SS, 0)
    assert b.get("rsp") == 1


def test_32_bit_operands_on_a_16_bit_stack_of_32_bit_code() -> None:
    b = Narrow(Mode.P32)
    b.p.set_segment("ss", FREE, DATA, 0xFFFF, 0x93)
    b.set(rsp=0x12340010)
    assert b.run(Op.OP_PUSHF) == EMU_NEXT
    assert b.get("rsp") == 0x1234000C
    assert b.words(DATA + 0xC, 1, 4) == [2]


def test_32_bit_stack_of_16_bit_code() -> None:
    b = Narrow(Mode.P16)
    b.p.set_segment("ss", FREE, 0, 0xFFFFFFFF, 0xC093)
    b.set(rsp=0x123456)
    assert b.run(Op.OP_PUSHF) == EMU_NEXT
    assert b.get("rsp") == 0x123454


def test_stack_beyond_its_limit() -> None:
    b = Narrow(Mode.P32)
    b.set(rsp=0x10002)
    assert b.run(Op.OP_PUSHF) == EMU_FAULT
    assert b.fault() == (SS, 0)
    assert b.run(Op.OP_POPF) == EMU_FAULT
    assert b.fault() == (SS, 0)


# --- descriptor tables


@pytest.mark.parametrize("op", [Op.OP_LGDT, Op.OP_LIDT])
@pytest.mark.parametrize(("size", "base"), [(2, 0x345678), (4, 0x12345678)])
@pytest.mark.parametrize("mode", [Mode.REAL, Mode.P16, Mode.P32, Mode.COMPAT])
def test_table_register_has_24_bits_of_base_with_16_bit_operands(
    mode: Mode, op: int, size: int, base: int
) -> None:
    b = Narrow(mode)
    b.p.write_phys(DATA + 0x10, struct.pack("<HI", 0x4321, 0x12345678))
    assert b.run(op, ea=0x10, size=size) == EMU_NEXT
    assert b.p.get_table("gdtr" if op == Op.OP_LGDT else "idtr") == (base, 0x4321)


@pytest.mark.parametrize("size", [2, 4])
def test_sgdt_stores_six_bytes(size: int) -> None:
    b = Narrow(Mode.V86)
    b.p.set_table("gdtr", 0x12345678, 0x4321)
    b.p.write_phys(DATA, b"\xaa" * 8)
    assert b.run(Op.OP_SGDT, ea=0, size=size) == EMU_NEXT
    assert b.p.read_phys(DATA, 8) == b"\x21\x43\x78\x56\x34\x12\xaa\xaa"


@PARAGRAPHS
@pytest.mark.parametrize(
    "op",
    [Op.OP_SLDT, Op.OP_STR, Op.OP_LLDT, Op.OP_LTR, Op.OP_LAR, Op.OP_LSL, Op.OP_VERR, Op.OP_VERW],
)
def test_descriptors_are_undefined_without_protection(mode: Mode, op: int) -> None:
    b = Narrow(mode)
    assert b.run(op, ea=0x20000) == EMU_FAULT
    assert b.fault() == (UD, None)


@pytest.mark.parametrize("op", [Op.OP_LGDT, Op.OP_LIDT, Op.OP_LMSW, Op.OP_HLT, Op.OP_CLTS,
                                Op.OP_INVLPG, Op.OP_RDMSR, Op.OP_WRMSR, Op.OP_WBINVD])  # fmt: skip
def test_privileged_instructions_in_virtual_8086_mode(op: int) -> None:
    b = Narrow(Mode.V86)
    b.set(rflags=2 | VM | 0x3000)
    assert b.run(op, ea=0x20000, segment=SS_REG) == EMU_FAULT
    assert b.fault() == (GP, 0)


@TYPES
@pytest.mark.parametrize(("op", "good"), [(Op.OP_LLDT, {2}), (Op.OP_LTR, {1, 9})])
def test_system_register_takes_its_types(op: int, good: set[int], kind: int) -> None:
    b = Narrow(Mode.P32)
    seen = {}
    for made in every_kind(range(kind, kind + 1)):
        b.gdt(FREE, descriptor(made.access, 0x89123456, 0x67))
        b.set(rax=FREE | 3)
        seen[made] = b.outcome(b.run(op, rm=RAX))
    absent = {True: None, False: (NP, FREE)}
    assert seen == {made: absent[made.present] if kind in good else (GP, FREE) for made in seen}


@pytest.mark.parametrize("kind", [1, 9])
def test_ltr_marks_the_tss_busy(kind: int) -> None:
    b = Narrow(Mode.P32)
    b.gdt(FREE, descriptor(0x80 | kind, 0x89123456, 0x67))
    b.set(rax=FREE)
    assert b.run(Op.OP_LTR, rm=RAX) == EMU_NEXT
    assert b.p.get_segment("tr") == (FREE, 0x89123456, 0x67, 0x82 | kind)
    assert b.p.read_phys(GDT + FREE + 5, 1) == bytes([0x82 | kind])


def test_lldt_takes_eight_bytes() -> None:
    b = Narrow(Mode.P32)
    b.gdt(FREE, descriptor(0x82, 0x89123456, 0x67), 0xFFFFFFFFFFFFFFFF)
    b.set(rax=FREE)
    assert b.run(Op.OP_LLDT, rm=RAX) == EMU_NEXT
    assert b.p.get_segment("ldtr") == (FREE, 0x89123456, 0x67, 0x82)


SEGMENTS = set(range(0x10, 0x20))
VISIBLE = [
    (Op.OP_LAR, Mode.P32, SEGMENTS | {1, 2, 3, 4, 5, 9, 0xB, 0xC}),
    (Op.OP_LAR, Mode.COMPAT, SEGMENTS | {2, 9, 0xB, 0xC}),
    (Op.OP_LSL, Mode.P32, SEGMENTS | {1, 2, 3, 9, 0xB}),
    (Op.OP_LSL, Mode.COMPAT, SEGMENTS | {2, 9, 0xB}),
    (Op.OP_VERR, Mode.P32, {t for t in SEGMENTS if t < 0x18 or t & 2}),
    (Op.OP_VERW, Mode.P32, {t for t in SEGMENTS if t < 0x18 and t & 2}),
]


@TYPES
@pytest.mark.parametrize(("op", "mode", "types"), VISIBLE)
@pytest.mark.parametrize("cpl", [0, 3])
def test_which_descriptors_are_shown(
    op: int, mode: Mode, types: set[int], cpl: int, kind: int
) -> None:
    b = Narrow(mode, cpl)
    seen, expected = {}, {}
    for made, rpl in itertools.product(every_kind(range(kind, kind + 1)), (0, 3)):
        b.gdt(FREE, descriptor(made.access, DATA, 0x123, 0xC))
        b.set(rax=FREE | rpl, rbx=0)
        assert b.run(op, rm=RAX, reg=RBX, size=4) == EMU_NEXT
        seen[made, rpl] = b.get("rflags") & ZF != 0, b.get("rbx")
        shown = kind in types and (made.conforming or (made.dpl >= cpl and made.dpl >= rpl))
        value = {Op.OP_LAR: 0xC00000 | made.access << 8, Op.OP_LSL: 0x123FFF}.get(Op(op), 0)
        expected[made, rpl] = shown, value if shown else 0
    assert seen == expected


def test_selectors_of_system_registers_are_stored() -> None:
    b = Narrow(Mode.P16)
    assert b.run(Op.OP_STR, ea=0x100) == EMU_NEXT
    assert b.run(Op.OP_SLDT, ea=0x102) == EMU_NEXT
    assert b.words(DATA + 0x100, 2, 2) == [TSS_SEL, LDT_SEL]
    assert b.get("rip") == START + 2


# --- CR0.PE


def test_protection_comes_and_goes_with_hidden_descriptors_kept() -> None:
    b = Narrow(Mode.REAL)
    hidden = {name: b.p.get_segment(name) for name in NAMES}
    b.set(rax=0x11)
    assert b.run(Op.OP_MOV_TO_CR, reg=0, rm=RAX) == EMU_FLOW
    assert (b.get("cpl"), b.get("key") & 0x1F) == (0, 4)
    load(b, DS_REG, DATA0)
    load(b, ES_REG, 0)
    b.set(rax=0x10)
    assert b.run(Op.OP_MOV_TO_CR, reg=0, rm=RAX) == EMU_FLOW
    assert b.get("key") & 0x1F == 4
    assert b.p.get_segment("cs") == hidden["cs"]
    assert b.p.get_segment("ds") == (DATA0, DATA, 0xFFFF, 0x93)


def test_lmsw_enters_protected_mode_but_cannot_leave_it() -> None:
    b = Narrow(Mode.REAL)
    b.set(rax=1)
    assert b.run(Op.OP_LMSW, rm=RAX) == EMU_FLOW
    b.set(rax=0)
    b.run(Op.OP_LMSW, rm=RAX)
    assert b.get("cr0") == 0x11


def test_32_bit_code_stays_32_bit_code_in_real_mode() -> None:
    b = Narrow(Mode.P32)
    b.set(rax=0x10)
    assert b.run(Op.OP_MOV_TO_CR, reg=0, rm=RAX) == EMU_FLOW
    assert b.get("key") & 0x1F == 8
