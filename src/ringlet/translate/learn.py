"""Learning an instruction's shape from iced-x86: the translator's only source of opcodes.

`learn` uses only the key of the bytes (`ringlet.translate.key`).  It builds a representative
instruction with that key, whose operands collide with no implicit one, and asks iced-x86 about it.
So all instructions with one key have one shape by construction; the tests enumerate instructions
to show that iced-x86 describes all those with one key alike.

A shape also covers some undefined instructions: VEX.vvvv not 1111b where it names no register, a
gather whose registers overlap, CR9.  They raise #UD on the host too, or in the operation.
"""

from dataclasses import astuple, dataclass
from struct import Struct
from typing import Final

from iced_x86 import Code, Decoder, Instruction

from ringlet.core.ops import Op
from ringlet.translate.classify import Innocuous, Refused, Ruled, classify
from ringlet.translate.effects import effects_of, kind_of
from ringlet.translate.features import OFFERED
from ringlet.translate.key import (
    GROUP_MODRM,
    GROUP_REG,
    GROUP_RM,
    ShapeKey,
    group_index,
    opcode_groups,
    parse,
)
from ringlet.translate.shape import MemUse, RegRole, ShapeKind, StackUse, UnitUse

_ROW: Final = Struct("<12B5H3BxH")


@dataclass(frozen=True, slots=True)
class Shape:
    """A row of the C struct `Shape` in shape.pxd, which describes each field."""

    kind: int
    op: int = Op.OP_NONE
    modrm: int = 0
    imm: int = 0
    reg: int = RegRole.ROLE_NONE
    rm: int = RegRole.ROLE_NONE
    vvvv: int = RegRole.ROLE_NONE
    opreg: int = RegRole.ROLE_NONE
    mem: int = MemUse.MEM_NONE
    mem_size: int = 0
    unit: int = UnitUse.UNIT_NONE
    stack: int = StackUse.STACK_NONE
    implicit_read: int = 0
    implicit_write: int = 0
    flags_read: int = 0
    flags_kill: int = 0
    flags_write: int = 0
    size: int = 0
    width: int = 0
    traps: int = 0
    code16: int = Code.INVALID

    def pack(self) -> bytes:
        """Return the bytes of the C struct."""
        return _ROW.pack(*astuple(self))


def learn(code: bytes, mode: int = 64, features: frozenset[str] = OFFERED) -> Shape:
    """Return the shape of the instruction at the start of `code`; later bytes are ignored.

    `mode` is 16, 32 or 64; `features` are the names of `ringlet.translate.features` that the
    virtual processor has.  Raises `ValueError` if `code` ends before the ModRM byte.
    """
    parsed = parse(code, mode)
    if parsed is None or parsed.bad_prefix:
        return Shape(ShapeKind.SHAPE_INVALID, Op.OP_UD)
    return learn_key(parsed.key, features)


def learn_key(key: ShapeKey, features: frozenset[str] = OFFERED) -> Shape:
    """Return the shape of the instructions that have `key`."""
    group = opcode_groups(key.mode)[group_index(key.vex, key.map, key.opcode)]
    modrm = group & GROUP_MODRM
    found = _representative(key, group)
    if found is None:
        return Shape(ShapeKind.SHAPE_INVALID, Op.OP_UD, modrm)
    instruction, length = found
    code = instruction.code
    imm = instruction.len - length
    memory = bool(modrm) and not key.register
    match classify(code, key.mode, features):
        case Innocuous():
            kind, op = kind_of(instruction, memory), int(Op.OP_NONE)
        case Ruled(rule):
            kind, op = int(ShapeKind.SHAPE_OP), int(rule.op)
        case Refused():
            return Shape(ShapeKind.SHAPE_OP, Op.OP_UD, modrm, imm, code16=code)
    effects = effects_of(instruction, key.vex, memory)
    return Shape(kind, op, modrm, imm, *effects, code)


# --- a representative instruction

# Registers (r11, r15, r12 in 64-bit code) that no instruction both names and uses implicitly, so
# that the implicit ones are those not named.  They differ, because XOR r,r reads nothing.
# Outside 64-bit code the memory operand is [EBP].
_NAMED_REG: Final = 3
_NAMED_RM: Final = 7
_NAMED_VVVV: Final = {16: 6, 32: 6, 64: 12}
# All immediates are 3: a shift by 0 would change no flags, and a shift by 1 more than others.
_PADDING: Final = b"\x03" * 8


def _representative(key: ShapeKey, group: int) -> tuple[Instruction, int] | None:
    """Return an instruction with `key`, and its length up to the immediate; or None."""
    for vsib in (False, True) if group & GROUP_MODRM and not key.register else (False,):
        for extend in (5, 1) if key.mode == 64 else (0,):
            for vvvv in (_NAMED_VVVV[key.mode], 0) if key.vex else (0,):
                header = _header(key, group, extend, vvvv, vsib)
                decoder = Decoder(key.mode, header + _PADDING)
                instruction = decoder.decode()
                if instruction.code != Code.INVALID:
                    return instruction, len(header)
    return None


def _header(key: ShapeKey, group: int, extend: int, vvvv: int, vsib: bool) -> bytes:
    """Return the bytes before the immediate; `extend` are the R and B bits of REX or VEX."""
    if key.mode == 64 and not key.vex and key.map == 0 and key.opcode == 0x90:
        # Here REX.B selects the instruction.  F3 does not make XCHG r8,rAX a PAUSE on processors,
        # though iced-x86 decodes it so.
        extend = key.reg
        if extend:
            key = key._replace(repe=False)
    # In 16-bit code the index of a gather needs 32-bit addresses.
    start = b"\x67" if vsib and key.mode == 16 else b""
    start += _vex(key, extend, vvvv) if key.vex else _prefixes(key, extend)
    start += bytes((key.opcode,))
    return start + _modrm(key, group, vsib) if group & GROUP_MODRM else start


def _vex(key: ShapeKey, extend: int, vvvv: int) -> bytes:
    pp = 1 if key.p66 else 2 if key.repe else 3 if key.repne else 0
    last = key.w << 7 | (vvvv ^ 15) << 3 | key.vl << 2 | pp
    return bytes((0xC4, (extend ^ 7) << 5 | key.map, last))


def _prefixes(key: ShapeKey, extend: int) -> bytes:
    given = (
        (key.p66, 0x66),
        (key.repe, 0xF3),
        (key.repne, 0xF2),
        (key.lock, 0xF0),
        (key.mode == 64 and (extend or key.w), 0x40 | key.w << 3 | extend),
    )
    escape = (b"", b"\x0f", b"\x0f\x38", b"\x0f\x3a")[key.map]
    return bytes(byte for present, byte in given if present) + escape


def _modrm(key: ShapeKey, group: int, vsib: bool) -> bytes:
    reg = (key.reg if group & GROUP_REG else _NAMED_REG) << 3
    if key.register:
        rm = key.rm if group & GROUP_RM else _NAMED_RM
        return bytes((0xC0 | reg | rm,))
    if vsib:
        # [base + vector 4]
        return bytes((reg | 4, 4 << 3 | _NAMED_RM))
    if key.mode == 64:
        return bytes((reg | _NAMED_RM,))
    return bytes((0x40 | reg | (6 if key.mode == 16 else 5), 0))
