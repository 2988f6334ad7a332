"""The key of a shape: the bits of an instruction's encoding that its translation depends on.

The key is 64-bit code's 24-bit number (`ShapeKey.pack`), with a table of shapes per mode:

    bits 0-7    opcode byte
    bits 8-9    opcode map: 0 one byte, 1 0F, 2 0F 38, 3 0F 3A
    bit  10     VEX (C4 or C5) rather than legacy encoding
    bits 11-13  legacy: 66h given; F3h, F2h is the last of F2h/F3h given.  VEX: pp in bits 11-12
    bit  14     REX.W or VEX.W
    bit  15     legacy: LOCK given.  VEX: L
    bit  16     register form: ModRM.mod is 3, or is ignored (GROUP_REGISTER)
    bits 17-19  ModRM.reg where it extends the opcode (GROUP_REG); REX.B for 90h
    bits 20-22  ModRM.rm where it extends the opcode of a register form (GROUP_RM)

67h, segment prefixes, register operands and the values of immediates are not in the key, so no
shape may depend on them.  The decoder handles three cases itself: the offset of A0h-A3h has the
size of the address (with 67h: 4 bytes in 64-bit code, 2 in 32-bit code, 4 in 16-bit code); LOOP and
JrCXZ count in (E)CX with 67h; and any of 66h, F2h, F3h, F0h or REX before VEX is #UD
(`Parsed.bad_prefix`).

Sources: SDM vol. 2A chapter 2.
"""

import functools
from dataclasses import dataclass
from typing import Final, NamedTuple

from iced_x86 import (
    Code_,
    DecoderOptions,
    EncodingKind,
    Instruction,
    OpCodeInfo,
    OpCodeTableKind,
)
from iced_x86 import OpCodeOperandKind as K

from ringlet.translate.features import NAMES, missing
from ringlet.translate.rules import RULES
from ringlet.translate.rules.registry import CODE_NAMES

GROUP_MODRM: Final = 1
"""The opcode has a ModRM byte."""
GROUP_REG: Final = 2
"""ModRM.reg extends the opcode, or decides which register numbers exist (CRn, DRn, Sreg)."""
GROUP_RM: Final = 4
"""ModRM.rm extends the opcode where mod is 3."""
GROUP_OPREG: Final = 8
"""The opcode's low three bits name a register."""
GROUP_REGISTER: Final = 16
"""mod is ignored: always a register form without SIB or displacement (MOV CRn, MOV DRn)."""


class ShapeKey(NamedTuple):
    """The parts of a key (see the module); `reg` and `rm` are 0 where they do not count."""

    mode: int
    vex: bool
    map: int
    opcode: int
    p66: bool
    repe: bool
    repne: bool
    w: bool
    vl: bool  # VEX.L
    lock: bool
    register: bool
    reg: int
    rm: int

    def pack(self) -> int:
        """Return the 24-bit number described above."""
        if self.vex:
            prefixes = 1 if self.p66 else 2 if self.repe else 3 if self.repne else 0
        else:
            prefixes = self.p66 | self.repe << 1 | self.repne << 2
        return (
            self.opcode
            | self.map << 8
            | self.vex << 10
            | prefixes << 11
            | self.w << 14
            | (self.vl if self.vex else self.lock) << 15
            | self.register << 16
            | self.reg << 17
            | self.rm << 20
        )


@dataclass(frozen=True, slots=True)
class Parsed:
    """The fields of an instruction up to its ModRM byte."""

    key: ShapeKey
    group: int
    after_opcode: int  # offset of ModRM, or of the immediate
    rex: int  # low four bits WRXB, also of VEX
    address_override: bool
    bad_prefix: bool  # a prefix before VEX that makes it undefined


def group_index(vex: bool, opcode_map: int, opcode: int) -> int:
    """Return the index of an opcode's flags in `opcode_groups`."""
    return vex << 10 | opcode_map << 8 | opcode


_MAPS: Final = {
    OpCodeTableKind.NORMAL: 0,
    OpCodeTableKind.T0F: 1,
    OpCodeTableKind.T0F38: 2,
    OpCodeTableKind.T0F3A: 3,
}
_IN_OPCODE: Final = frozenset({K.R8_OPCODE, K.R16_OPCODE, K.R32_OPCODE, K.R64_OPCODE})
_ALL_FEATURES: Final = frozenset(NAMES.values())
_NUMBERED: Final = frozenset({K.CR_REG, K.DR_REG, K.SEG_REG})
# Operands that are neither ModRM's nor VEX's: immediates, fixed registers, implicit memory.
_WITHOUT_MODRM: Final = (
    frozenset(
        value
        for name, value in vars(K).items()
        if isinstance(value, int)
        and name.startswith(("IMM", "BR", "FARBR", "XBEGIN", "SEG_R", "ES_RDI", "MEM_OFFS"))
    )
    | frozenset({K.ES, K.CS, K.SS, K.DS, K.FS, K.GS, K.AL, K.CL, K.AX, K.DX, K.EAX, K.RAX})
    | frozenset({K.NONE, K.ST0, K.STI_OPCODE})
    | _IN_OPCODE
)


def _add_group(flags: bytearray, info: OpCodeInfo) -> None:
    opcode_map = _MAPS[info.table]
    vex = info.encoding == EncodingKind.VEX
    if info.encoding == EncodingKind.D3NOW:
        # 0F 0F has its opcode in the place of an immediate.
        flags[group_index(False, 1, 0x0F)] |= GROUP_MODRM
        return
    kinds = set(info.op_kinds())
    group = 0
    opcode = info.op_code
    if info.op_code_len == 2:
        opcode >>= 8
        group = GROUP_MODRM | GROUP_REG
        if K.STI_OPCODE not in kinds:
            group |= GROUP_RM
    elif info.is_group or info.is_rm_group:
        group = GROUP_MODRM | GROUP_REG
    instruction = Instruction()
    instruction.code = info.code
    rule = RULES.get(info.code)
    if missing(instruction.cpuid_features(), _ALL_FEATURES) and not (rule and rule.absent):
        # These are refused whatever the features, like the undefined opcodes next to them, so they
        # need no keys of their own (XBEGIN would give the C7 form of MOV r32, imm32 eight shapes).
        group &= GROUP_MODRM
    if kinds - _WITHOUT_MODRM:
        group |= GROUP_MODRM
    if kinds & _NUMBERED:
        group |= GROUP_REG
    if info.ignores_mod_bits:
        group |= GROUP_REGISTER
    if kinds & _IN_OPCODE:
        for low in range(8):
            flags[group_index(vex, opcode_map, opcode + low)] |= group | GROUP_OPREG
    else:
        flags[group_index(vex, opcode_map, opcode)] |= group


@functools.cache
def opcode_groups(mode: int = 64) -> bytes:
    """Return the GROUP_* flags of all opcodes of `mode`, at `group_index(vex, map, opcode)`."""
    wanted = (EncodingKind.LEGACY, EncodingKind.VEX, EncodingKind.D3NOW)
    flags = bytearray(2 * 4 * 256)
    for code in CODE_NAMES:
        info = OpCodeInfo(Code_(code))
        if (
            info.is_available_in_mode(mode)
            and info.is_instruction
            and info.encoding in wanted
            and info.table in _MAPS
            and info.decoder_option == DecoderOptions.NONE
        ):
            _add_group(flags, info)
    return bytes(flags)


_SEGMENT_PREFIXES: Final = frozenset({0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65})


def parse(code: bytes, mode: int = 64) -> Parsed | None:
    """Decode the instruction at the start of `code` up to its ModRM byte.

    Returns None for a VEX map that does not exist.  Raises `ValueError` if `code` ends before the
    ModRM byte does, or the prefixes alone fill 15 bytes.
    """
    try:
        return _parse(code[:15], mode)
    except IndexError:
        raise ValueError("the bytes end before the instruction does") from None


def _parse(code: bytes, mode: int) -> Parsed | None:
    p66 = p67 = lock = False
    rep = rex = at = 0
    while True:
        byte = code[at]
        if byte in _SEGMENT_PREFIXES:
            rex = 0
        elif byte == 0x66:
            p66, rex = True, 0
        elif byte == 0x67:
            p67, rex = True, 0
        elif byte == 0xF0:
            lock, rex = True, 0
        elif byte in (0xF2, 0xF3):
            rep, rex = byte, 0
        elif mode == 64 and byte & 0xF0 == 0x40:
            rex = byte
        else:
            break
        at += 1
    if byte in (0xC4, 0xC5) and (mode == 64 or code[at + 1] >= 0xC0):
        bad = bool(p66 or lock or rep or rex)
        return _parse_vex(code, at, mode, p67, bad)
    opcode_map = 0
    at += 1
    if byte == 0x0F:
        byte, opcode_map = code[at], 1
        at += 1
        if byte in (0x38, 0x3A):
            opcode_map = 2 if byte == 0x38 else 3
            byte = code[at]
            at += 1
    group = opcode_groups(mode)[group_index(False, opcode_map, byte)]
    register, reg, rm = _modrm_key(group, code, at)
    if byte == 0x90 and opcode_map == 0:
        # REX.B distinguishes XCHG r8,rAX from NOP and PAUSE.
        reg = rex & 1
    key = ShapeKey(
        mode, False, opcode_map, byte, p66, rep == 0xF3, rep == 0xF2,
        bool(rex & 8), False, lock, register, reg, rm,
    )  # fmt: skip
    return Parsed(key, group, at, rex & 15, p67, False)


def _parse_vex(code: bytes, at: int, mode: int, p67: bool, bad: bool) -> Parsed | None:
    first = code[at + 1]
    if code[at] == 0xC4 and first & 31 not in (1, 2, 3):
        return None
    if code[at] == 0xC5:
        last, opcode_map, w = first, 1, False
        rex = (first >> 5 & 4) ^ 4
        at += 2
    else:
        last, opcode_map, w = code[at + 2], first & 31, code[at + 2] >= 0x80
        rex = (first >> 5) ^ 7
        at += 3
    opcode = code[at]
    at += 1
    group = opcode_groups(mode)[group_index(True, opcode_map, opcode)]
    register, reg, rm = _modrm_key(group, code, at)
    pp = last & 3
    key = ShapeKey(
        mode, True, opcode_map, opcode, pp == 1, pp == 2, pp == 3,
        w, bool(last & 4), False, register, reg, rm,
    )  # fmt: skip
    return Parsed(key, group, at, rex | w << 3, p67, bad)


def _modrm_key(group: int, code: bytes, at: int) -> tuple[bool, int, int]:
    if not group & GROUP_MODRM:
        return False, 0, 0
    modrm = code[at]
    register = modrm >= 0xC0 or bool(group & GROUP_REGISTER)
    reg = modrm >> 3 & 7 if group & GROUP_REG else 0
    rm = modrm & 7 if group & GROUP_RM and register else 0
    return register, reg, rm
