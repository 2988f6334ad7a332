"""Hostile 16- and 32-bit code: random bytes, instructions, and operations on tables and modes."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable

from tests.fuzz.narrow_place import (
    CODE,
    GDT,
    IDT,
    PD,
    PD32,
    PDPT,
    PML4,
    PT,
    PT32,
    TASK16,
    TASK32,
    TSS,
    any_offset,
    any_selector,
    wild_descriptor,
    wild_entry,
)
from tests.fuzz.narrow_soundness import random_instruction

_LONGEST = 160
_AX, _CX, _DX, _SP, _SI, _DI = 0, 1, 2, 4, 6, 7
_STRINGS = bytes.fromhex("a4a5a6a7aaabacadaeaf6c6d6e6f")
_PUSHES = tuple(bytes.fromhex(code) for code in "50 58 60 61 9c c8100003 6aff e80000".split())
_PREFIXES = (b"", b"", b"\x66", b"\x67", b"\x66\x67")
_SEGMENT_PREFIXES = (b"", b"", b"\x26", b"\x2e", b"\x36", b"\x3e", b"\x64", b"\x65")
_MSRS = (
    0xC0000080, 0xC0000081, 0xC0000082, 0xC0000083, 0x174, 0x175, 0x176, 0xC0000100, 0x1B, 0x277,
)  # fmt: skip
_SIMPLE = tuple(bytes.fromhex(code) for code in """
    fa fb 9c 9d 60 61 c9 ce cc cf 66cf cb ca0400 c3 c20400 06 07 16 17 1e 1f 0fa0 0fa1 0fa8 0fa9 54
    0f05 0f07 0f34 0f35 0f0b 0f08 0f09 0f06 0f30 0f32 0f31 0fa2 0f01d0 0f01d1 0f01f9 0f01cb 0f01ca
    d7 2e0f18 6690 f390 f1 9b d9e8 def9 ddd8 dbe3 0f77 c5f877 c5fc77 27 2f 37 3f d40a d50a d6 e400
    5c f4 e600 ec ee 0faa
""".split())  # fmt: skip
# ModRM opcodes with a memory operand: descriptor tables, far pointers, bits, states, locked and
# masked accesses, gathers.
_AT_MEMORY = tuple(bytes.fromhex(code) for code in """
    0f0100 0f0108 0f0110 0f0118 0f0120 0f0130 0f0138 0f0000 0f0008 0f0010 0f0018 0f0020 0f0028 8e00
    8e10 8e18 8e28 8c00 8c20 c400 c500 0fb200 0fb400 0fb500 ff18 ff28 ff10 ff20 ff30 8f00 6200
    0fa308 0fab08 0fb308 0fbb08 f00fab08 0fba28 0fae00 0fae08 0fae20 0fae28 0fae10 0fae18 0fae38
    dd30 dd20 d920 d930 db38 db28 d928 df20 df30 0fc708 f00fc708 f00fb108 8708 f00108 0f0200 0f0300
    6300 0f2900 0f1100 0ff700 c4e2792e08 c4e2792c08 c5fd6f00 c5fd7f00 0fe700 660ff700 0fc300 66a5
    c800 0f0d00 0f1800 0f1f00 d700
""".split())  # fmt: skip


def _number(value: int, bits: int) -> bytes:
    return struct.pack("<I", value & 0xFFFFFFFF)[: bits // 8]


def _load(draw: random.Random, register: int, value: int, bits: int) -> bytes:
    """MOV register, value, with 32 bits wherever it may."""
    if bits == 16 and draw.random() < 0.8:
        return b"\x66" + bytes((0xB8 | register,)) + _number(value, 32)
    return bytes((0xB8 | register,)) + _number(value, bits)


def _modrm(draw: random.Random, bits: int, reg: int = 0) -> bytes:
    """A memory operand: [disp], or with a register and perhaps a displacement."""
    wide = bits == 32
    kind = draw.randrange(4)
    if kind < 2:
        return bytes((reg | (5 if wide else 6),)) + _number(any_offset(draw), bits)
    rm = draw.randrange(8)
    sib = bytes((draw.getrandbits(8),)) if wide and rm == 4 else b""
    if kind == 2:
        return bytes((0x40 | reg | rm,)) + sib + draw.randbytes(1)
    return bytes((0x80 | reg | rm,)) + sib + _number(any_offset(draw), bits)


def _at_memory(draw: random.Random, bits: int) -> bytes:
    code = draw.choice(_AT_MEMORY)
    prefixes = draw.choice(_PREFIXES) + draw.choice(_SEGMENT_PREFIXES)
    address = 48 - bits if b"\x67" in prefixes else bits
    return prefixes + code[:-1] + _modrm(draw, address, code[-1] & 0x38)


def _far(draw: random.Random, bits: int) -> bytes:
    prefix = draw.choice((b"", b"", b"\x66"))
    size = 48 - bits if prefix else bits
    to = draw.choice((CODE + draw.randrange(64), draw.randrange(64), any_offset(draw)))
    return prefix + draw.choice((b"\xea", b"\xea", b"\x9a")) + _number(to, size) \
        + struct.pack("<H", any_selector(draw))  # fmt: skip


def _segment(draw: random.Random, bits: int) -> bytes:
    register = draw.choice((0, 0, 2, 2, 3, 3, 4, 5))
    return _load(draw, _AX, any_selector(draw), bits) + bytes((0x8E, 0xC0 | register << 3))


def _control(draw: random.Random, bits: int) -> bytes:
    """MOV to CR0, CR3, CR4, or a debug register."""
    which = draw.randrange(4)
    if which == 0:
        value = 0x10 | draw.choice((0, 1, 1)) | draw.choice((0, 1 << 31))
        value |= draw.choice((0, 1 << 16)) | draw.choice((0, 0, 8, 2, 4, 1 << 18, 1 << 29))
        code = b"\x0f\x22\xc0"
    elif which == 1:
        value = draw.choice((PD32, PDPT, PML4, PT32, any_offset(draw)))
        code = b"\x0f\x22\xd8"
    elif which == 2:
        value = draw.choice((0x40610, 0x40630, 0x600, 0x20, 0x40610 | 3, draw.getrandbits(21)))
        code = b"\x0f\x22\xe0"
    else:
        value = any_offset(draw)
        code = b"\x0f\x23" + bytes((0xC0 | draw.choice((0, 1, 2, 3, 6, 7, 7)) << 3,))
    return _load(draw, _AX, value, bits) + code


def _msr(draw: random.Random, bits: int) -> bytes:
    value = draw.choice((0, 0x100, 0x500, 0xD01, 0x901, CODE, any_offset(draw)))
    high = draw.choice((0, 0, 1, any_offset(draw)))
    code = _load(draw, _CX, draw.choice(_MSRS), bits) + _load(draw, _AX, value, bits)
    return code + _load(draw, _DX, high, bits) + b"\x0f\x30"


def _store(draw: random.Random, bits: int) -> bytes:
    """MOV byte or dword [address]: to code that runs, and to tables."""
    if draw.random() < 0.5:
        at, value = CODE + draw.randrange(-32, 96), draw.getrandbits(32)
        at -= draw.choice((0, CODE))
    else:
        at = draw.choice((GDT, GDT, IDT, TSS, TASK32, TASK16, PT, PT32, PD, PD32, PDPT))
        at += 4 * draw.randrange(80)
        wild = wild_descriptor(draw) & 0xFFFFFFFF
        value = draw.choice((wild, wild_entry(draw, 4), 0, any_selector(draw)))
    operand = bytes((5 if bits == 32 else 6,)) + _number(at, bits)
    segment = draw.choice(_SEGMENT_PREFIXES)
    if draw.random() < 0.3:
        return segment + b"\xc6" + operand + bytes((value & 0xFF,))
    return segment + b"\xc7" + operand + _number(value, bits)


def _string(draw: random.Random, bits: int) -> bytes:
    count = draw.choice((0, 1, 5, 0x40, 0x400, 0x8000, 0xFFFF, any_offset(draw)))
    code = _load(draw, _CX, count, bits)
    for register in (_SI, _DI):
        code += _load(draw, register, any_offset(draw), bits)
    code += draw.choice((b"\xfc", b"\xfd", b"")) + draw.choice((b"\xf3", b"\xf3", b"\xf2", b""))
    code += draw.choice(_PREFIXES) + draw.choice(_SEGMENT_PREFIXES)
    return code + bytes((draw.choice(_STRINGS),))


def _return(draw: random.Random, bits: int) -> bytes:
    """PUSH values; then IRET, RETF or POPF."""
    count, code = draw.choice(
        ((3, b"\xcf"), (5, b"\xcf"), (9, b"\xcf"), (2, b"\xcb"), (4, b"\xcb"), (1, b"\x9d"))
    )
    wide = draw.random() < 0.5
    prefix = b"\x66" if wide != (bits == 32) else b""
    flags = draw.choice((2, 0x3202, 0x20002, 0x23202, 0x4002, 0x102, draw.getrandbits(22)))
    target = draw.choice((CODE + draw.randrange(64), draw.randrange(64), any_offset(draw)))
    values = [*(any_selector(draw) for _ in range(4)), any_selector(draw), any_offset(draw),
              flags, any_selector(draw), target][-count:]  # fmt: skip
    if count < 3:
        values = [any_offset(draw), any_selector(draw), target][-count:]
    if code == b"\x9d":
        values = [flags]
    pushes = b"".join(prefix + b"\x68" + _number(v, 32 if wide else 16) for v in values)
    return pushes + prefix + code


def _interrupt(draw: random.Random, bits: int) -> bytes:
    del bits
    return bytes((0xCD, draw.choice((draw.randrange(32), 0x80, 13, 14, draw.randrange(256)))))


def _stack(draw: random.Random, bits: int) -> bytes:
    value = draw.choice((0, 1, 2, 4, 0xFFFE, 0x10000, 0xFFFFFFFE, 0x10002, any_offset(draw)))
    return _load(draw, _SP, value, bits) + draw.choice(_PREFIXES) + draw.choice(_PUSHES)


def _bits(draw: random.Random, bits: int) -> bytes:
    """BT, BTS, BTR or BTC of memory with a bit offset in a register."""
    code = _load(draw, _CX, draw.choice((any_offset(draw), 1 << 31, (1 << 31) - 1)), bits)
    opcode = draw.choice((0xA3, 0xAB, 0xB3, 0xBB))
    prefix = draw.choice((b"", b"", b"\xf0", b"\x66", b"\x67"))
    address = 48 - bits if prefix == b"\x67" else bits
    return code + prefix + draw.choice(_SEGMENT_PREFIXES) + bytes((0x0F, opcode)) \
        + _modrm(draw, address, _CX << 3)  # fmt: skip


def _jump(draw: random.Random, bits: int) -> bytes:
    kind = draw.randrange(5)
    if kind < 2:
        return bytes((draw.choice((0xEB, 0x70 | draw.randrange(16), 0xE0, 0xE2, 0xE3)),
                      draw.choice((0, 1, 2, 5, 0xF0, 0xE0, 0x80, 0x7F))))  # fmt: skip
    if kind == 2:
        return draw.choice((b"", b"\x66")) + b"\xe9" + _number(any_offset(draw) - CODE, bits)
    to = draw.choice((CODE + draw.randrange(64), draw.randrange(64), any_offset(draw)))
    return _load(draw, _AX, to, bits) + draw.choice((b"", b"\x66")) \
        + draw.choice((b"\xff\xe0", b"\xff\xd0", b"\x50\xc3"))  # fmt: skip


def _simple(draw: random.Random, bits: int) -> bytes:
    del bits
    return draw.choice(_PREFIXES) + draw.choice(_SIMPLE)


def _bytes(draw: random.Random, bits: int) -> bytes:
    del bits
    return draw.randbytes(draw.randrange(1, 6))


_Piece = Callable[[random.Random, int], bytes]
_PIECES: tuple[_Piece, ...] = (
    random_instruction, random_instruction, random_instruction, random_instruction, _bytes,
    _at_memory, _at_memory, _far, _segment, _segment, _control, _msr, _store, _store, _string,
    _string, _return, _interrupt, _stack, _bits, _jump, _simple, _simple,
)  # fmt: skip


def hostile_code(draw: random.Random, bits: int) -> bytes:
    """Return random bytes or pieces of code for a code segment of 16 or 32 bits."""
    if draw.random() < 0.2:
        return draw.randbytes(draw.randrange(1, 48))
    pieces = draw.choice(((random_instruction,), _PIECES, _PIECES, _PIECES))
    code = b"".join(draw.choice(pieces)(draw, bits) for _ in range(draw.randrange(1, 12)))
    if draw.random() < 0.1:
        changed = bytearray(code)
        changed[draw.randrange(len(changed))] = draw.getrandbits(8)
        code = bytes(changed)
    return code[:_LONGEST]
