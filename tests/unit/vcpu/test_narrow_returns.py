"""Far RET and IRET outside 64-bit mode."""

import itertools

import pytest

from ringlet.core.ops import Op
from tests.unit.vcpu.narrow import (
    AC,
    CODE,
    CODE0,
    CODE1,
    CODE3,
    DATA,
    DATA3,
    EMU_FAULT,
    EMU_FLOW,
    FREE,
    FREE2,
    GP,
    ID,
    IF,
    IOPL3,
    NAMES,
    NT,
    RF,
    SS,
    STACK0,
    STACK1,
    STACK3,
    STACKS,
    TF,
    TOP,
    UNUSABLE,
    VIF,
    VIP,
    VM,
    Mode,
    Narrow,
    descriptor,
)
from tests.unit.vcpu.narrow_model import (
    every_kind,
    return_code,
    stack_load,
)

PARAGRAPHS = pytest.mark.parametrize("mode", [Mode.REAL, Mode.V86])
SIZES = pytest.mark.parametrize("size", [2, 4])


@PARAGRAPHS
@SIZES
def test_far_return_to_a_paragraph(mode: Mode, size: int) -> None:
    b = Narrow(mode)
    b.put(STACKS + TOP, size, 0x9ABC, 0x2345)
    assert b.run(Op.OP_RET_FAR, size=size, imm=6) == EMU_FLOW
    assert (b.get("rip"), b.selector("cs")) == (0x9ABC, 0x2345)
    assert b.get("rsp") == TOP + 2 * size + 6


@PARAGRAPHS
@pytest.mark.parametrize("op", [Op.OP_RET_FAR, Op.OP_IRET])
def test_return_beyond_the_limit(mode: Mode, op: int) -> None:
    b = Narrow(mode)
    b.flags_or(IOPL3)
    b.put(STACKS + TOP, 4, 0x10000, 0x2345, 2)
    assert b.run(op, size=4) == EMU_FAULT
    assert b.fault() == (GP, 0)
    assert b.get("rsp") == TOP


REAL_FLAGS = 0x257FD5 & ~RF  # no breakpoint is enabled


@pytest.mark.parametrize("old", [2, 0x97ED7])
@pytest.mark.parametrize("image", [0, 0xFFFFFFFF])
@SIZES
def test_iret_in_real_mode_loads_all_but_three_flags(old: int, image: int, size: int) -> None:
    b = Narrow(Mode.REAL)
    b.set(rflags=old)
    b.put(STACKS + TOP, size, 0x100, 0x2345, image & (1 << 8 * size) - 1)
    assert b.run(Op.OP_IRET, size=size) == EMU_FLOW
    loaded = REAL_FLAGS if size == 4 else 0x7FD5
    assert b.get("rflags") == old & ~loaded & ~RF | image & loaded | 2
    assert b.get("rsp") == TOP + 3 * size


@SIZES
def test_iret_in_virtual_8086_mode_keeps_iopl_and_vm(size: int) -> None:
    b = Narrow(Mode.V86)
    b.flags_or(IOPL3)
    b.put(STACKS + TOP, size, 0x100, 0x2345, IF | 1)
    assert b.run(Op.OP_IRET, size=size) == EMU_FLOW
    assert b.get("rflags") == VM | IOPL3 | IF | 3
    assert (b.get("rip"), b.selector("cs"), b.get("cpl")) == (0x100, 0x2345, 3)


def test_iret_loads_tf_in_real_mode() -> None:
    b = Narrow(Mode.REAL)
    b.put(STACKS + TOP, 2, 0x100, 0x2345, TF)
    b.run(Op.OP_IRET)
    assert b.get("key") & 1 << 8


# --- far RET and IRET


@pytest.mark.parametrize("kind", range(32))
@pytest.mark.parametrize("cpl", [0, 1, 3])
@pytest.mark.parametrize(("op", "mode"), [(Op.OP_RET_FAR, Mode.P32), (Op.OP_IRET, Mode.P16),
                                          (Op.OP_RET_FAR, Mode.COMPAT)])  # fmt: skip
def test_every_code_segment_of_a_return(cpl: int, kind: int, op: int, mode: Mode) -> None:
    seen, expected = {}, {}
    b = Narrow(mode, cpl)
    b.gdt(FREE2, descriptor(0xD3, STACKS, flags=b.flags))
    stacks = [STACK0, STACK1 | 1, FREE2 | 2, STACK3 | 3]
    extra = [2] * (op == Op.OP_IRET)
    for made, rpl in itertools.product(every_kind(range(kind, kind + 1)), range(4)):
        b.gdt(FREE, descriptor(made.access, CODE, flags=b.flags))
        b.put(STACKS + TOP, mode.size, 0x123, FREE | rpl, *extra, TOP, stacks[rpl])
        seen[made, rpl] = b.outcome(b.run(op)), b.get("cpl")
        b.enter(cpl)
        fault = return_code(made, FREE | rpl, cpl)
        expected[made, rpl] = fault, cpl if fault else rpl
    assert seen == expected


@pytest.mark.parametrize("kind", range(32))
@pytest.mark.parametrize("op", [Op.OP_RET_FAR, Op.OP_IRET])
def test_every_stack_segment_of_a_return(kind: int, op: int) -> None:
    seen, expected = {}, {}
    b = Narrow(Mode.P32, 0)
    extra = [2] * (op == Op.OP_IRET)
    for made, rpl in itertools.product(every_kind(range(kind, kind + 1)), range(4)):
        b.gdt(FREE, descriptor(made.access, STACKS, flags=4))
        b.put(STACKS + TOP, 4, 0x123, CODE3 | 3, *extra, 0x5000, FREE | rpl)
        seen[made, rpl] = b.outcome(b.run(op)), b.get("rsp")
        b.enter(0)
        fault = stack_load(made, FREE | rpl, 3)
        expected[made, rpl] = fault, TOP if fault else 0x5000
    assert seen == expected


@SIZES
def test_return_to_an_outer_ring_drops_parameters_of_both_stacks(size: int) -> None:
    b = Narrow(Mode.P32)
    b.put(STACKS + TOP, size, 0x1234, CODE3 | 3)
    b.put(STACKS + TOP + 2 * size + 8, size, 0x6000, STACK3 | 3)
    assert b.run(Op.OP_RET_FAR, size=size, imm=8) == EMU_FLOW
    assert (b.get("cpl"), b.get("rip"), b.get("rsp")) == (3, 0x1234, 0x6008)
    assert [b.p.get_segment(n) for n in ("ds", "es", "fs", "gs")] == [(0, 0, 0, UNUSABLE)] * 4


def test_return_keeps_segments_that_the_outer_ring_may_use() -> None:
    b = Narrow(Mode.P32)
    b.load("ds", DATA3 | 3)
    b.gdt(FREE, descriptor(0x9F, DATA))
    b.load("es", FREE)
    b.put(STACKS + TOP, 4, 0x1234, CODE3 | 3, TOP, STACK3 | 3)
    b.run(Op.OP_RET_FAR)
    assert (b.selector("ds"), b.selector("es"), b.selector("fs")) == (DATA3 | 3, FREE, 0)


@pytest.mark.parametrize("op", [Op.OP_RET_FAR, Op.OP_IRET])
def test_return_to_an_outer_ring_clears_the_rpl_of_null_selectors(op: int) -> None:
    """Linux's sigreturn of 32-bit programs loads null selectors with RPL 3."""
    b = Narrow(Mode.P32)
    b.p.set_segment("fs", 3, 0x12345, 0, UNUSABLE)
    b.put(STACKS + TOP, 4, 0x1234, CODE3 | 3, *[2] * (op == Op.OP_IRET), TOP, STACK3 | 3)
    assert b.run(op) == EMU_FLOW
    assert b.p.get_segment("fs") == (0, 0x12345, 0, UNUSABLE)


@pytest.mark.parametrize("op", [Op.OP_RET_FAR, Op.OP_IRET])
def test_return_to_the_same_ring_keeps_null_selectors(op: int) -> None:
    b = Narrow(Mode.P32)
    b.p.set_segment("fs", 3, 0, 0, UNUSABLE)
    b.put(STACKS + TOP, 4, 0x1234, CODE0, *[2] * (op == Op.OP_IRET))
    assert b.run(op) == EMU_FLOW
    assert b.selector("fs") == 3


@pytest.mark.parametrize("op", [Op.OP_RET_FAR, Op.OP_IRET])
def test_return_to_a_16_bit_stack_loads_sp_only(op: int) -> None:
    b = Narrow(Mode.P32)
    b.gdt(FREE, descriptor(0xF3, STACKS))
    b.p.set_segment("ss", STACK0, 0, 0xFFFFFFFF, 0xC093)
    b.set(rsp=0x00128000)
    b.put(0x128000, 4, 0x1234, CODE3 | 3, *[2] * (op == Op.OP_IRET), 0x7000, FREE | 3)
    assert b.run(op) == EMU_FLOW
    assert b.get("rsp") == 0x127000 | 0x100000


def test_null_stack_of_a_return() -> None:
    b = Narrow(Mode.P32)
    b.put(STACKS + TOP, 4, 0x1234, CODE3 | 3, TOP, 0)
    assert b.run(Op.OP_RET_FAR) == EMU_FAULT
    assert b.fault() == (GP, 0)


@pytest.mark.parametrize("op", [Op.OP_RET_FAR, Op.OP_IRET])
@pytest.mark.parametrize("words", [1, 2, 4])
def test_return_from_the_end_of_the_stack(op: int, words: int) -> None:
    b = Narrow(Mode.P32)
    at = 0x10000 - 4 * words - 4 * (op == Op.OP_IRET and words > 2)
    b.set(rsp=at + 4 * (words == 4))
    b.put(STACKS + at + 4 * (words == 4), 4, 0x1234, CODE3 | 3, 2)
    assert b.run(op) == EMU_FAULT
    assert b.fault() == (SS, 0)


FLAGS = 0x254DD5 & ~RF
"""What every ring loads from IRET's image, IF and IOPL apart."""


@pytest.mark.parametrize("iopl", range(4))
@pytest.mark.parametrize("cpl", [0, 1, 3])
@pytest.mark.parametrize("image", [0, 0xFFFDFFFF & ~NT])
@SIZES
def test_flags_that_iret_loads(iopl: int, cpl: int, image: int, size: int) -> None:
    b = Narrow(Mode.P32, cpl)
    old = 2 | iopl << 12
    b.set(rflags=old)
    code = {0: CODE0, 1: CODE1 | 1, 3: CODE3 | 3}[cpl]
    b.put(STACKS + TOP, size, 0x100, code, image & (1 << 8 * size) - 1)
    assert b.run(Op.OP_IRET, size=size) == EMU_FLOW
    mask = FLAGS | IF * (cpl <= iopl) | (IOPL3 | VIF | VIP) * (cpl == 0)
    mask &= 0xFFFF if size == 2 else 0xFFFFFFFF
    assert b.get("rflags") == old & ~mask | image & mask | 2


# --- virtual-8086 mode by IRET


def test_iret_enters_virtual_8086_mode() -> None:
    b = Narrow(Mode.P32)
    image = VM | IF | AC | ID | VIF | 0x1002
    b.put(STACKS + TOP, 4, 0xFFFF1234 & 0xFFFF, 0x2345, image, 0x9000, 1, 2, 3, 4, 5)
    assert b.run(Op.OP_IRET) == EMU_FLOW
    assert (b.get("rip"), b.get("cpl"), b.get("rflags")) == (0x1234, 3, image)
    assert b.get("rsp") == 0x9000
    assert b.get("key") & 0x1F == 3 | 4
    selectors = {"cs": 0x2345, "ss": 1, "es": 2, "ds": 3, "fs": 4, "gs": 5}
    loaded = {name: b.p.get_segment(name) for name in NAMES}
    assert loaded == {n: (s, s << 4, 0xFFFF, 0xF3) for n, s in selectors.items()}


@pytest.mark.parametrize(
    ("rip", "rsp", "expected"), [(0x10000, TOP, (GP, 0)), (0x100, 0x10000 - 32, (SS, 0))]
)
def test_faulty_iret_to_virtual_8086_mode(rip: int, rsp: int, expected: tuple[int, int]) -> None:
    b = Narrow(Mode.P32)
    b.set(rsp=rsp)
    b.put(STACKS + rsp, 4, rip, 0x2345, VM | 2, 0x9000, 1, 2, 3, 4, 5)
    assert b.run(Op.OP_IRET) == EMU_FAULT
    assert b.fault() == expected
    assert (b.get("cpl"), b.get("rflags"), b.get("rsp")) == (0, 2, rsp)


@pytest.mark.parametrize(("cpl", "mode"), [(3, Mode.P32), (0, Mode.COMPAT)])
def test_iret_ignores_vm_elsewhere(cpl: int, mode: Mode) -> None:
    b = Narrow(mode, cpl)
    code = {0: CODE0, 3: CODE3 | 3}[cpl]
    b.put(STACKS + TOP, 4, 0x100, code, VM | 2)
    assert b.run(Op.OP_IRET) == EMU_FLOW
    assert (b.get("rflags"), b.selector("cs")) == (2, code)


def test_iret_with_nt_faults_in_compatibility_mode() -> None:
    b = Narrow(Mode.COMPAT)
    b.set(rflags=NT | 2)
    assert b.run(Op.OP_IRET) == EMU_FAULT
    assert b.fault() == (GP, 0)
