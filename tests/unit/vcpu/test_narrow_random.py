"""Random operations on random tables, outside 64-bit mode: what always holds afterwards."""

import random
import struct

import pytest

from ringlet.core.ops import Op
from tests.unit.vcpu.narrow import (
    CODE,
    DATA,
    EMU_EXIT,
    EMU_FAULT,
    GDT,
    IDT,
    NT,
    STACKS,
    TASK32,
    TSS32,
    VM,
    Mode,
    Narrow,
    descriptor,
    gate,
    tss32,
)

OPERATIONS = [
    Op.OP_JMP_FAR, Op.OP_CALL_FAR, Op.OP_RET_FAR, Op.OP_IRET, Op.OP_INT, Op.OP_INT3, Op.OP_INTO,
    Op.OP_MOV_TO_SEG, Op.OP_POP_SEG, Op.OP_LOAD_FAR, Op.OP_LLDT, Op.OP_LTR, Op.OP_PUSHF,
    Op.OP_POPF, Op.OP_ENTER, Op.OP_SYSENTER, Op.OP_SYSEXIT, Op.OP_LAR, Op.OP_VERR, Op.OP_CLI,
    Op.OP_STI, Op.OP_SMSW, Op.OP_LMSW, Op.OP_SGDT,
]  # fmt: skip
CODES = {Op.OP_LOAD_FAR: b"\xc5\x06", Op.OP_POP_SEG: b"\x17", Op.OP_INT: b"\xcd\x40"}
REGISTERS = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "rip")


def any_descriptor(draw: random.Random) -> int:
    """Return a descriptor that is often good."""
    kind = draw.choice((0x93, 0x9B, 0xF3, 0xFB, 0x9F, 0x97, 0x89, 0x81, 0x82, 0xEC, 0xE4, 0xE5))
    kind ^= (draw.random() < 0.2) << draw.randrange(8)
    if kind & 0x10:
        base = draw.choice((0, CODE, DATA, STACKS))
        return descriptor(
            kind, base, draw.choice((0xFFFF, 0xFFFFF, 0x100)), draw.choice((0, 4, 12))
        )
    if kind & 0xF in (4, 5, 12):
        return gate(kind & 31, any_selector(draw), draw.randrange(0x10000), kind >> 5 & 3, 3)
    return descriptor(kind, draw.choice((TSS32, TASK32)), draw.choice((0x67, 0xFFF)))


def any_selector(draw: random.Random) -> int:
    """Return a selector that is mostly within the GDT."""
    return draw.randrange(33) * 8 | draw.choice((0, 0, 3, 3, 1, 4))


def fill(b: Narrow, draw: random.Random) -> None:
    """Write tables, tasks and stacks."""
    b.gdt(8, *(any_descriptor(draw) for _ in range(31)))
    kinds = (14, 15, 6, 5)
    gates = [
        gate(draw.choice(kinds), any_selector(draw), draw.randrange(0x10000), 3, p=1)
        for _ in range(256)
    ]
    b.p.write_phys(IDT, struct.pack("<256Q", *gates))
    names = ("cs", "ss", "ds", "es", "fs", "gs", "ldt", "ss0", "ss1", "link")
    for base in (TSS32, TASK32):
        state = {name: any_selector(draw) for name in names}
        b.p.write_phys(base, tss32(**state, eflags=draw.choice((2, VM, NT, 0x3202))))
    words = [draw.choice((any_selector(draw), draw.randrange(1 << 16), VM | 2)) for _ in range(64)]
    b.p.write_phys(STACKS + 0x7F80, struct.pack("<64I", *words))


def step(b: Narrow, draw: random.Random) -> int:
    """Execute one operation and deliver what it raises; return the result."""
    # After LMSW has set CR0.PE, CS still has a paragraph, which says nothing of the CPL.
    op = draw.choice([op for op in OPERATIONS if b.get("cr0") & 1 or op != Op.OP_LMSW])
    memory = op in (Op.OP_LOAD_FAR, Op.OP_SGDT) or draw.random() < 0.5
    selector, size = any_selector(draw), draw.choice((2, 4))
    b.set(rax=selector, ea=draw.randrange(0x10010))
    result = b.run(
        op, size=size, reg=draw.randrange(6), rm=0xFF if memory else 0,
        imm=selector << 8 * size | draw.randrange(0x11000), segment=draw.randrange(6),
        code=CODES.get(op, b"\x90" * 3),
    )  # fmt: skip
    return b.p.deliver() if result == EMU_FAULT else result


def consistent(b: Narrow) -> None:
    """Check what holds between two instructions."""
    p = b.p
    protected, virtual = b.get("cr0") & 1, b.get("rflags") & VM
    cs = p.get_segment("cs")
    privilege = 0 if not protected else 3 if virtual else cs[0] & 3
    assert b.get("cpl") == privilege
    assert all(b.get(name) < 1 << 32 for name in REGISTERS)
    assert not virtual or [p.get_segment(n)[3] for n in ("cs", "ss", "ds")] == [0xF3] * 3
    key = b.get("key")
    b.set(inhibit=b.get("inhibit"))  # computes the key again
    assert b.get("key") == key
    assert p.get_segment("tr")[3] & 2
    assert p.read_phys(GDT, 8) == bytes(8)


@pytest.mark.parametrize("mode", [Mode.REAL, Mode.V86, Mode.P16, Mode.P32])
@pytest.mark.parametrize("seed", range(10))
def test_random_operations_leave_a_consistent_processor(mode: Mode, seed: int) -> None:
    draw = random.Random(seed)
    b = Narrow(mode, draw.choice((0, 3)))
    for _ in range(60):
        b.reset()
        b.set(cr0=0x10 if mode is Mode.REAL else 0x11)
        b.set(rflags=2 | VM * (mode is Mode.V86) | draw.choice((0, 0x3000, NT, 0x800)))
        b.set(cr4=draw.choice((0, 3)))
        b.enter(draw.choice((0, 3)))
        fill(b, draw)
        for _ in range(8):
            result = step(b, draw)
            consistent(b)
            if result == EMU_EXIT:
                break
