"""Small CPL-0 programs, which the host cannot run, on Ringlet and on Unicorn.

A case is given as bytes, runs at KERNEL + RING0_CODE and ends with HLT, an exception, or INT3 at
CPL 3 in the code area, which holds nothing else.
"""
from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from tests.differential import guest, layout
from tests.differential.program import REGISTERS

CODE = guest.KERNEL + guest.RING0_CODE
DATA = guest.KERNEL + guest.RING0_DATA
STACK = guest.KERNEL + guest.RING0_STACK_TOP - 0x100
USER = layout.CODE.linear
HLT = b"\xf4"

SELECTORS = (0, 1, 2, 3, 0x08, 0x10, 0x13, 0x18, 0x1B, 0x20, 0x23, 0x28, 0x2B, 0x30, 0x33, 0x40,
             0x43, 0x48, 0x50, 0xFFF8, 0x0C, 0x14)
ARITHMETIC_AND_DF = 0xCD5


@dataclass(frozen=True, slots=True)
class Case:
    """Code (HLT is added), registers by name, and the contents of DATA."""

    name: str
    code: bytes
    registers: dict[str, int] = field(default_factory=dict)
    data: bytes = b""
    rflags: int = 2


@dataclass(frozen=True, slots=True)
class Result:
    """How a case ended: `end` is "hlt" or "vector N"; everything else by name."""

    end: str
    values: dict[str, int]
    memory: bytes  # GDT, TSS, data and stack pages
    note: str = ""


def compare(a: Result, b: Result) -> list[str]:
    """Differences, `a`'s value first."""
    if a.end != b.end:
        return [f"end: {a.end} / {b.end} {b.note}".rstrip()]
    out = [f"{n}: {v:#x} / {b.values[n]:#x}" for n, v in a.values.items()
           if n in b.values and v != b.values[n]]
    if a.memory != b.memory:
        at = next(i for i, (x, y) in enumerate(zip(a.memory, b.memory, strict=True)) if x != y)
        out.append(f"memory + {at:#x}: {a.memory[at:at + 8].hex()} / {b.memory[at:at + 8].hex()}")
    return out


# --- the cases

def _mostly(rng: random.Random, usual: int, others: Sequence[int]) -> int:
    return usual if rng.random() < 0.7 else rng.choice(others)


def _flag_image(rng: random.Random) -> int:
    return rng.getrandbits(22) & 0x247ED5 | 2


def _mov_rax(value: int) -> bytes:
    return b"\x48\xb8" + struct.pack("<Q", value & (1 << 64) - 1)


def flags(rng: random.Random) -> Case:
    """PUSHF, POPF, CLI and STI in a row: IF and IOPL are the virtual ones."""
    code = b""
    for _ in range(rng.randint(1, 5)):
        kind = rng.randrange(5)
        if kind < 2:
            code += _mov_rax(_flag_image(rng)) + b"\x50\x9d"  # push rax; popfq
        else:
            code += (b"\x9c\x5b", b"\xfa", b"\xfb")[kind - 2]  # pushfq; pop rbx | cli | sti
    return Case("flags", code + b"\x9c\x5e", rflags=_flag_image(rng) & ~0x4000)


def control_registers(rng: random.Random) -> Case:
    """MOV to and from CR0, CR2, CR3, CR4, CR8; CLTS, LMSW, SMSW."""
    number = rng.choice((0, 2, 3, 4, 8))
    values = {0: (guest.CR0, guest.CR0 | 8, guest.CR0 ^ 0x10000, guest.CR0 | 0x40000,
                  guest.CR0 & ~1, guest.CR0 & ~0x80000000, guest.CR0 | 1 << 32,
                  guest.CR0 | 0x20000000),
              2: (0, 0x1234, rng.getrandbits(64)),
              3: (guest.PML4, guest.PML4 | 0x18),
              4: (guest.CR4, guest.CR4 | 0x80, guest.CR4 | 4, guest.CR4 & ~0x20,
                  guest.CR4 | 1 << 40, guest.CR4 | 1 << 31),
              8: (0, 5, 15, 16, 1 << 40)}
    rex, low = (b"\x44" if number == 8 else b""), number & 7
    write = _mov_rax(rng.choice(values[number])) + rex + bytes((0x0F, 0x22, 0xC0 | low << 3))
    read = rex + bytes((0x0F, 0x20, 0xC3 | low << 3))  # mov rbx, crN
    other = rng.choice((b"", b"\x0f\x06", b"\x0f\x01\xe1", b"\x48\x0f\x01\xe1"))  # clts, smsw rcx
    return Case(f"cr{number}", write + other + read)


def task_switched(rng: random.Random) -> Case:
    """CR0.TS set: x87 and SSE raise #NM, until CLTS (Unicorn has no AVX)."""
    use = rng.choice((b"\xd9\xe8", b"\x0f\x57\xc0", b"\x9b", b"\x66\x0f\xef\xc0"))
    clear = rng.choice((b"", b"\x0f\x06"))
    return Case("ts", _mov_rax(guest.CR0 | 8) + b"\x0f\x22\xc0" + clear + use)


def segment_loads(rng: random.Random) -> Case:
    """MOV to and from DS, ES, FS, GS and SS with every kind of selector."""
    register = rng.choice((0, 2, 3, 4, 5))
    load = bytes((0x8E, 0xC0 | register << 3))
    store = bytes((0x48, 0x8C, 0xC3 | register << 3))
    return Case(f"mov seg {register}", _mov_rax(rng.choice(SELECTORS)) + load + store)


def pop_segments(rng: random.Random) -> Case:
    """PUSH and POP of FS and GS."""
    push, pop = rng.choice(((b"\x0f\xa0", b"\x0f\xa1"), (b"\x0f\xa8", b"\x0f\xa9")))
    return Case("pop seg", push + _mov_rax(rng.choice(SELECTORS)) + b"\x50" + pop + push + b"\x5b")


def iret(rng: random.Random) -> Case:
    """IRETQ to the same ring, to ring 3, and with everything that is wrong."""
    outer = rng.random() < 0.5
    cs = _mostly(rng, guest.USER_CS if outer else guest.KERNEL_CS, SELECTORS)
    ss = _mostly(rng, guest.USER_SS if outer else guest.KERNEL_SS, SELECTORS)
    rip = CODE + 0x100 if cs & 3 == 0 else USER
    rip = rng.choice((rip,) * 8 + (0x8000_0000_0000,))
    code = b""
    for value in (ss, STACK - 64, _flag_image(rng) & ~0x4000, cs, rip):
        code += _mov_rax(value) + b"\x50"
    return Case("iretq", code + b"\x48\xcf")


def far_return(rng: random.Random) -> Case:
    """RETFQ to code of the same and of other privilege."""
    cs = _mostly(rng, guest.KERNEL_CS, SELECTORS)
    rip = CODE + 0x100 if cs & 3 == 0 else USER
    code = b""
    if cs & 3:
        code += _mov_rax(guest.USER_SS) + b"\x50" + _mov_rax(STACK - 64) + b"\x50"
    code += _mov_rax(cs) + b"\x50" + _mov_rax(rip) + b"\x50"
    return Case("retfq", code + b"\x48\xcb")


def far_jump(rng: random.Random) -> Case:
    """JMP and CALL through m16:32: the target is a page that ring 0 may execute."""
    cs = _mostly(rng, guest.KERNEL_CS, SELECTORS)
    extension = rng.choice((3, 5))
    data = struct.pack("<IH", USER, cs)  # REX.W is Intel's alone
    return Case("far jmp/call", bytes((0xFF, extension << 3 | 6)),
                {"rsi": DATA}, data)


M64, M32 = (1 << 64) - 1, (1 << 32) - 1


def descriptor_questions(rng: random.Random) -> Case:
    """LAR, LSL, VERR, VERW of every kind of selector."""
    code = _mov_rax(rng.choice(SELECTORS)) + rng.choice(
        (b"\x48\x0f\x02\xd8", b"\x48\x0f\x03\xd8", b"\x0f\x00\xe0", b"\x0f\x00\xe8"))
    return Case("lar/lsl/verr/verw", code)


def tables(rng: random.Random) -> Case:
    """SGDT, SIDT, LGDT, LIDT, SLDT, STR, LLDT, LTR."""
    kind = rng.randrange(7)
    if kind < 2:
        return Case("sgdt/sidt", bytes((0x0F, 0x01, kind << 3 | 6)), {"rsi": DATA})
    if kind < 4:
        limit = rng.choice((0xFF, guest.GDT_LIMIT, 0xFFFF))
        base = guest.KERNEL + (guest.GDT if kind == 2 else guest.IDT)
        base = rng.choice((base,) * 3 + (1 << 47,))
        return Case("lgdt/lidt", bytes((0x0F, 0x01, kind << 3 | 6, 0x0F, 0x01, kind - 2 << 3 | 7)),
                    {"rsi": DATA, "rdi": DATA + 16}, struct.pack("<HQ", limit, base))
    if kind == 4:
        return Case("sldt/str", b"\x48\x0f\x00\xc3\x48\x0f\x00\xc9")
    selector = rng.choice(SELECTORS)
    return Case("lldt" if kind == 5 else "ltr",
                _mov_rax(selector) + bytes((0x0F, 0x00, 0xD0 if kind == 5 else 0xD8))
                + b"\x48\x0f\x00\xc3")


MSRS = {0xC0000080: (guest.EFER, guest.EFER & ~1, guest.EFER & ~0x100, guest.EFER | 1 << 20),
        0xC0000081: (guest.STAR, 0), 0xC0000082: (0, guest.LSTAR, 1 << 47, 0x7FFF_FFFF_FFFF),
        0xC0000084: (0x4_7700, 0), 0xC0000100: (0, USER, 1 << 47), 0xC0000101: (0, DATA, 1 << 62),
        0xC0000102: (0, DATA, 1 << 47), 0x174: (0x10,), 0x175: (STACK,), 0x176: (CODE,)}


def model_registers(rng: random.Random) -> Case:
    """WRMSR and RDMSR of what a kernel writes, with values that fault among them."""
    msr = rng.choice(tuple(MSRS))
    value = rng.choice(MSRS[msr])
    code = b"\xb9" + struct.pack("<I", msr) + b"\xb8" + struct.pack("<I", value & M32) \
        + b"\xba" + struct.pack("<I", value >> 32) + b"\x0f\x30\x0f\x32"
    return Case(f"msr {msr:#x}", code)


def swapgs(rng: random.Random) -> Case:
    """SWAPGS and an access through GS."""
    gs = _mov_rax(DATA) + b"\xba" + struct.pack("<I", DATA >> 32) \
        + b"\xb9\x02\x01\x00\xc0\x0f\x30"  # mov edx, imm; mov ecx, msr; wrmsr
    return Case("swapgs", gs + b"\x0f\x01\xf8" * rng.randint(1, 2)
                + rng.choice((b"", b"\x65\x48\x8b\x1c\x25\x08\x00\x00\x00")), data=bytes(range(32)))


def system_call(rng: random.Random) -> Case:
    """SYSRETQ to ring 3, whose code area is INT3."""
    rip = rng.choice((USER, USER + 8, 1 << 47))
    return Case("sysret", rng.choice((b"\x48\x0f\x07", b"\x0f\x05")),
                {"rcx": rip, "r11": _flag_image(rng) & ~0x4000})


def interrupts(rng: random.Random) -> Case:
    """INT n, INT3, INT1, and what is invalid in 64-bit mode."""
    return Case("int", rng.choice((b"\xcc", b"\xf1", b"\xcd\x20", b"\xcd\x80", b"\xcd\x0d",
                                   b"\xce", b"\x06", b"\x0f\x0b", b"\x62\x00", b"\xd6")))


def debug_registers(rng: random.Random) -> Case:
    """MOV to and from DR0-DR7."""
    number = rng.randrange(8)
    value = rng.choice((0, USER, 0x400, 1 << 40)) if number >= 4 else rng.getrandbits(47)
    return Case(f"dr{number}", _mov_rax(value) + bytes((0x0F, 0x23, 0xC0 | number << 3))
                + bytes((0x0F, 0x21, 0xC3 | number << 3)))


def paging(rng: random.Random) -> Case:
    """Accesses to user, read-only, unmapped and non-canonical pages from ring 0; INVLPG."""
    address = rng.choice((layout.DATA.linear, layout.RO.linear, 0x2000_5000, 1 << 47, 0,
                          guest.KERNEL + 0x20000, layout.CODE.linear))
    return Case("paging", _mov_rax(address) + rng.choice((b"\x8b\x18", b"\x88\x18", b"\x0f\x01\x38",
                                                         b"\xff\xe0")))


CASES: tuple[Callable[[random.Random], Case], ...] = (
    flags, control_registers, task_switched, segment_loads, pop_segments, iret, far_return,
    far_jump, descriptor_questions, tables, model_registers, swapgs, system_call, interrupts,
    debug_registers, paging)


def random_cases(seed: int, each: int) -> Iterator[Case]:
    """`each` cases of every kind."""
    rng = random.Random(seed)
    for make in CASES:
        for _ in range(each):
            yield make(rng)


def initial_registers(case: Case) -> dict[str, int]:
    """All general registers at the start of a case."""
    out = dict.fromkeys(REGISTERS, 0)
    out["rsp"] = STACK
    out.update(case.registers)
    return out
