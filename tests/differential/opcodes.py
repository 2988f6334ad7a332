"""Every opcode of every map, defined or not, and every form of address, as one program each.

Each stands behind each prefix that may select another instruction, with ModRM bytes of registers
and of memory for all eight values of their middle field.  Left out are instructions that no two
machines agree on (`tests.differential.forms`), and those of features that the virtual processor
does not offer, which `unoffered` lists: they raise #UD there.
"""
from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain

from iced_x86 import Code, Decoder, Instruction

from ringlet.translate import features
from tests.differential import layout
from tests.differential.forms import CODE_NAMES, MNEMONIC_NAMES, UNEQUAL_NARROW, offered
from tests.differential.program import SELECTORS_16, SELECTORS_32, Item, Program, State
from tests.differential.segments import STACK_HIGH

_PREFIXES = tuple(bytes.fromhex(p) for p in
    ["", *"66 f2 f3 67 f0 66f2 66f3 2e".split()])
_MAPS = tuple(bytes.fromhex(m) for m in ("", "0f", "0f38", "0f3a"))
_VECTOR_HEADS = tuple(bytes.fromhex(h) for h in (
    "c5f8 c5f9 c5fa c5fb c5fc c5fd c5fe c5ff c4e178 c4e1f9 c4e278 c4e279 c4e27a c4e27b c4e27d "
    "c4e2f9 c4e2fd c4e379 c4e37d c4e3f9 c4e3fd c4e37b c4e478 c578f8 c4c279 8fe878 8fe978 8fea78 "
    "62f17c48"
).split())
_OFFSET = {16: 0x4800, 32: layout.DATA.linear + 0x800}
_DISPLACEMENT = bytes.fromhex("80ffffff")
_SEGMENT_PREFIXES = (b"", b"\x26", b"\x36", b"\x64")
_TAIL = b"\x03" + bytes(12)
_PARTLY = frozenset("AAA AAS AAM AAD DAA DAS FXSAVE XSAVE".split())
"""What they leave is partly undefined; `tests.differential.generate` compares what they define."""
_OLDER = frozenset("PREFETCHIT0 PREFETCHIT1 CLDEMOTE RDSSPD WBNOINVD".split())
"""Without their features they are NOPs, and the last one is WBINVD."""
# Processors differ in what VEX.W means (of VPERMQ and VPERMPD 0, of VPEXTRD and VPINSRD 1) and in
# what LOCK means (AMD moves CR8 for CR0, and performs VERW).  VMCALL is the hypervisor's.
_VENDORS = tuple(bytes.fromhex(code) for code in """
    c4e37d00 c4e37d01 c4e3f916 c4e3f922 f00f20 f00f22 f00f002e f00f002d
    660f01c1 f20f01c1 f30f01c1 66f20f01c1 66f30f01c1
""".split())


def _operands(address: int) -> Iterator[bytes]:
    """Yield ModRM bytes with what follows: registers, and memory at a displacement."""
    for field in range(0, 64, 8):
        yield bytes((0xC1 | field,)) + _TAIL
        if address == 32:
            yield bytes((field | 5,)) + struct.pack("<I", _OFFSET[32]) + _TAIL
        else:
            yield bytes((field | 6,)) + struct.pack("<H", _OFFSET[16]) + _TAIL


def strings(bits: int) -> Iterator[bytes]:
    """Yield the opcodes, each with more bytes than it needs."""
    for prefix in _PREFIXES:
        address = 48 - bits if prefix == b"\x67" else bits
        for opcode_map in _MAPS:
            for opcode in range(256):
                for operands in _operands(address):
                    yield prefix + opcode_map + bytes((opcode,)) + operands
    for head in _VECTOR_HEADS:
        for opcode in range(256):
            for operands in _operands(bits):
                yield head + bytes((opcode,)) + operands


def _addresses(size: int) -> Iterator[bytes]:
    """Yield ModRM (with 1 in its middle field), SIB and displacement of each address of a size."""
    for mod in range(3):
        width = (0, 1, size // 8)[mod]
        for rm in range(8):
            modrm = bytes((mod << 6 | 1 << 3 | rm,))
            if size == 16:
                yield modrm + _DISPLACEMENT[: 2 if mod == 0 and rm == 6 else width]
            elif rm != 4:
                yield modrm + _DISPLACEMENT[: 4 if mod == 0 and rm == 5 else width]
            else:
                for sib in range(256):
                    more = 4 if mod == 0 and sib & 7 == 5 else width
                    yield modrm + bytes((sib,)) + _DISPLACEMENT[:more]


def addressing_strings(bits: int) -> Iterator[bytes]:
    """Yield LEA, a load and an addition to memory with each address, in most segments."""
    for size in (bits, 48 - bits):
        for segment in _SEGMENT_PREFIXES:
            for address in _addresses(size):
                for opcode in (b"\x8d", b"\x66\x8d", b"\x8b", b"\x01", b"\x8a"):
                    if segment and (opcode[-1] == 0x8D or len(address) > 6):
                        continue
                    yield segment + (b"\x67" if size != bits else b"") + opcode + address


def _decoded(code: bytes, bits: int) -> tuple[Instruction, bytes]:
    """Return the instruction, and its bytes; of an undefined one, all."""
    ins = Decoder(bits, code).decode()
    return ins, code if ins.code == Code.INVALID else code[: ins.len]


def is_comparable(ins: Instruction) -> bool:
    """Whether two machines agree on the instruction."""
    name = MNEMONIC_NAMES[ins.mnemonic]
    return name not in UNEQUAL_NARROW and name not in _PARTLY \
        and not CODE_NAMES[ins.code].endswith("_0F0D") \
        and not features.missing(ins.cpuid_features(), offered())


def _state(bits: int) -> State:
    pointer = _OFFSET[bits]
    stack = layout.STACK.linear + 0x2000 if bits == 32 else STACK_HIGH << 16 | 0xA000
    gpr = (0x11, 1, 2, pointer, stack, pointer + 64, pointer + 128, pointer + 192, *[0] * 8)
    state = State(gpr, layout.CODE.linear + 64, selectors=SELECTORS_32)
    return state if bits == 32 else replace(state, rip=64, selectors=SELECTORS_16)


def with_code(code: bytes, bits: int) -> Program:
    """Return a program of some bytes, with registers that point at data."""
    return Program((Item(raw=code),), layout.CODE.linear + 64, _state(bits), bits=bits)


def opcode_programs(bits: int) -> Iterator[Program]:
    """Yield a program of each different string, opcodes first and then addresses."""
    seen: set[bytes] = set()
    for string in chain(strings(bits), addressing_strings(bits)):
        ins, code = _decoded(string, bits)
        if code in seen or code.startswith(_VENDORS):
            continue
        seen.add(code)
        if ins.code == Code.INVALID or is_comparable(ins):
            yield with_code(code, bits)


def unoffered(bits: int) -> Iterator[bytes]:
    """Yield the strings of instructions that the virtual processor does not offer."""
    for string in strings(bits):
        ins, code = _decoded(string, bits)
        if MNEMONIC_NAMES[ins.mnemonic] not in _OLDER and ins.code != Code.INVALID \
                and features.missing(ins.cpuid_features(), offered()):
            yield code
