"""The effects of one decoded instruction: the fields of its shape.

They come from iced-x86's instruction information.  Where it is not definite (shifts whose count may
be 0, masked moves, REP with a count of 0), this module makes the safe assumption.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from iced_x86 import (
    Code,
    CpuidFeature,
    EncodingKind,
    FlowControl,
    Instruction,
    InstructionInfo,
    InstructionInfoFactory,
    MandatoryPrefix,
    MemorySizeExt,
    Mnemonic,
    OpAccess,
    OpCodeInfo,
    OpCodeTableKind,
    OpKind,
    Register_,
    RegisterExt,
    RflagsBits,
)
from iced_x86 import OpCodeOperandKind as K

from ringlet.translate.shape import MemUse, RegRole, ShapeKind, StackUse, UnitUse

_FLOW: Final[Mapping[int, int]] = MappingProxyType(
    {
        FlowControl.UNCONDITIONAL_BRANCH: ShapeKind.SHAPE_JMP,
        FlowControl.CONDITIONAL_BRANCH: ShapeKind.SHAPE_JCC,
        FlowControl.CALL: ShapeKind.SHAPE_CALL,
        FlowControl.INDIRECT_BRANCH: ShapeKind.SHAPE_JMP_IND,
        FlowControl.INDIRECT_CALL: ShapeKind.SHAPE_CALL_IND,
        FlowControl.RETURN: ShapeKind.SHAPE_RET,
    }
)

_STRING: Final = frozenset(
    {
        getattr(Code, name)
        for name in vars(Code)
        if name.startswith(("MOVS", "STOS", "LODS", "SCAS", "CMPS"))
        and name[4:].startswith(("B_", "W_", "D_", "Q_"))
        and "XMM" not in name
    }
)

_KINDS: Final[Mapping[int, int]] = MappingProxyType(
    {
        Mnemonic.LOOP: ShapeKind.SHAPE_LOOP,
        Mnemonic.LOOPE: ShapeKind.SHAPE_LOOP,
        Mnemonic.LOOPNE: ShapeKind.SHAPE_LOOP,
        Mnemonic.JCXZ: ShapeKind.SHAPE_LOOP,
        Mnemonic.JECXZ: ShapeKind.SHAPE_LOOP,
        Mnemonic.JRCXZ: ShapeKind.SHAPE_LOOP,
        Mnemonic.LEAVE: ShapeKind.SHAPE_LEAVE,
        Mnemonic.LEA: ShapeKind.SHAPE_ADDRESS,
        Mnemonic.XLATB: ShapeKind.SHAPE_XLAT,
        Mnemonic.MASKMOVQ: ShapeKind.SHAPE_MASKMOV,
        Mnemonic.MASKMOVDQU: ShapeKind.SHAPE_MASKMOV,
        Mnemonic.VMASKMOVDQU: ShapeKind.SHAPE_MASKMOV,
    }
)

_MEMORY_KINDS: Final[Mapping[int, int]] = MappingProxyType(
    {
        Mnemonic.PUSH: ShapeKind.SHAPE_PUSH_MEM,
        Mnemonic.POP: ShapeKind.SHAPE_POP_MEM,
    }
)

_BIT_TESTS: Final = frozenset({Mnemonic.BT, Mnemonic.BTS, Mnemonic.BTR, Mnemonic.BTC})


def kind_of(instruction: Instruction, memory: bool) -> int:
    """Return the `ShapeKind` of an innocuous instruction; `memory`: ModRM names memory."""
    mnemonic = instruction.mnemonic
    if instruction.code in _STRING:
        return ShapeKind.SHAPE_STRING
    if mnemonic in _KINDS:
        return _KINDS[mnemonic]
    if memory:
        if mnemonic in _MEMORY_KINDS:
            return _MEMORY_KINDS[mnemonic]
        if mnemonic in _BIT_TESTS and instruction.op_kind(1) == OpKind.REGISTER:
            return ShapeKind.SHAPE_BITS
        if instruction.is_vsib:
            return ShapeKind.SHAPE_GATHER
    return _FLOW.get(instruction.flow_control, ShapeKind.SHAPE_PLAIN)


# --- operands

_REG, _RM, _VVVV, _OPREG = range(4)
_FIELDS: Final[Mapping[int, int]] = MappingProxyType(
    {
        K.R8_REG: _REG,
        K.R16_REG: _REG,
        K.R32_REG: _REG,
        K.R64_REG: _REG,
        K.R8_OR_MEM: _RM,
        K.R16_OR_MEM: _RM,
        K.R32_OR_MEM: _RM,
        K.R64_OR_MEM: _RM,
        K.R16_RM: _RM,
        K.R32_RM: _RM,
        K.R64_RM: _RM,
        K.R32_VVVV: _VVVV,
        K.R64_VVVV: _VVVV,
        K.R8_OPCODE: _OPREG,
        K.R16_OPCODE: _OPREG,
        K.R32_OPCODE: _OPREG,
        K.R64_OPCODE: _OPREG,
    }
)

_ROLE_SIZES: Final = {
    1: RegRole.ROLE_8,
    2: RegRole.ROLE_16,
    4: RegRole.ROLE_32,
    8: RegRole.ROLE_64,
}
_READ: Final = int(RegRole.ROLE_READ)
_WRITE: Final = int(RegRole.ROLE_WRITE)
_MAYBE: Final = int(RegRole.ROLE_MAYBE)
# A conditional write may leave the old value, which must therefore be loaded, so it is a read too.
# It may also leave the upper half, so a 32-bit one does not zero-extend (SDM vol. 2A BSF, CMPXCHG).
_ROLE_ACCESS: Final[Mapping[int, int]] = MappingProxyType(
    {
        OpAccess.READ: _READ,
        OpAccess.COND_READ: _READ,
        OpAccess.WRITE: _WRITE,
        OpAccess.COND_WRITE: _READ | _WRITE | _MAYBE,
        OpAccess.READ_WRITE: _READ | _WRITE,
        OpAccess.READ_COND_WRITE: _READ | _WRITE | _MAYBE,
    }
)
_MEM_ACCESS: Final[Mapping[int, int]] = MappingProxyType(
    {
        OpAccess.NONE: MemUse.MEM_HINT,
        OpAccess.NO_MEM_ACCESS: MemUse.MEM_HINT,
        OpAccess.READ: MemUse.MEM_READ,
        OpAccess.COND_READ: MemUse.MEM_READ | MemUse.MEM_MAYBE,
        OpAccess.WRITE: MemUse.MEM_WRITE,
        OpAccess.COND_WRITE: MemUse.MEM_WRITE | MemUse.MEM_MAYBE,
        OpAccess.READ_WRITE: MemUse.MEM_READ | MemUse.MEM_WRITE,
        # CMPXCHG and the like write back the value that they read.
        OpAccess.READ_COND_WRITE: MemUse.MEM_READ | MemUse.MEM_WRITE,
    }
)
# Lanes whose mask is 0 are not accessed; if all masks are 0, memory is not accessed at all.
_MASKED: Final = frozenset(
    {Mnemonic.VMASKMOVPS, Mnemonic.VMASKMOVPD, Mnemonic.VPMASKMOVD, Mnemonic.VPMASKMOVQ}
)
# x87 instructions.  A store with an unmasked exception stores nothing and does not fault on its
# address; the next x87 instruction raises the exception (SDM vol. 1 8.4.1, 8.5).  The behaviour of
# a load in this case is not documented.
_ESCAPES: Final = range(0xD8, 0xE0)
# These fault like a load of one byte.
_LINE_FLUSHES: Final = frozenset({Mnemonic.CLFLUSH, Mnemonic.CLFLUSHOPT, Mnemonic.CLWB})

_RFLAGS: Final = (
    (RflagsBits.CF, 1 << 0),
    (RflagsBits.PF, 1 << 2),
    (RflagsBits.AF, 1 << 4),
    (RflagsBits.ZF, 1 << 6),
    (RflagsBits.SF, 1 << 7),
    (RflagsBits.DF, 1 << 10),
    (RflagsBits.OF, 1 << 11),
)
_SHIFTS: Final = frozenset(
    {
        Mnemonic.SHL, Mnemonic.SAL, Mnemonic.SHR, Mnemonic.SAR, Mnemonic.ROL, Mnemonic.ROR,
        Mnemonic.RCL, Mnemonic.RCR, Mnemonic.SHLD, Mnemonic.SHRD,
    }
)  # fmt: skip

# The manual leaves AF undefined; every processor clears it.
_LOGICAL: Final = frozenset({Mnemonic.AND, Mnemonic.OR, Mnemonic.XOR, Mnemonic.TEST})
_AF: Final = 1 << 4
_DIVISIONS: Final = frozenset({Mnemonic.DIV, Mnemonic.IDIV})
_STACK: Final = MappingProxyType(
    {Mnemonic.PUSH: StackUse.STACK_PUSH, Mnemonic.POP: StackUse.STACK_POP}
)
_RSP: Final = 1 << 4

_VECTOR: Final = frozenset(
    value
    for name, value in vars(K).items()
    if isinstance(value, int) and name.startswith(("XMM", "YMM"))
)
# Instructions of the vector unit without a vector operand.
_VECTOR_CONTROL: Final = frozenset(
    {
        Mnemonic.LDMXCSR, Mnemonic.STMXCSR, Mnemonic.VLDMXCSR, Mnemonic.VSTMXCSR,
        Mnemonic.VZEROUPPER, Mnemonic.VZEROALL,
    }
)  # fmt: skip
_X87_OPERANDS: Final = frozenset({K.MM_REG, K.MM_RM, K.MM_OR_MEM, K.ST0, K.STI_OPCODE})
_X87_FEATURES: Final = frozenset(
    {CpuidFeature.FPU, CpuidFeature.FPU287, CpuidFeature.FPU387, CpuidFeature.MMX}
)

_FACTORY: Final = InstructionInfoFactory()


class Effects(NamedTuple):
    """The fields of `Shape` that depend on the operands, in its order."""

    reg: int
    rm: int
    vvvv: int
    opreg: int
    mem: int
    mem_size: int
    unit: int
    stack: int
    implicit_read: int
    implicit_write: int
    flags_read: int
    flags_kill: int
    flags_write: int
    size: int
    width: int
    traps: int


def effects_of(instruction: Instruction, vex: bool, memory: bool) -> Effects:
    """Return the effects of `instruction`; `memory`: ModRM names memory.

    The instruction must not name a register that it also uses implicitly, except RSP.
    """
    op_code = instruction.op_code()
    kinds = op_code.op_kinds()
    info = _FACTORY.info(instruction)
    roles, named, size = _registers(instruction, op_code, info)
    mem, mem_size = _memory(instruction, op_code, info, memory)
    if memory:
        named |= _mask(instruction.memory_base)
    read, write = _implicit(info, named)
    if instruction.is_stack_instruction and named & _RSP:
        read |= _RSP
        write |= _RSP
    tested, killed, written = _flags(instruction)
    unit = _unit(instruction, vex, frozenset(kinds))
    traps = unit != UnitUse.UNIT_NONE or vex or instruction.mnemonic in _DIVISIONS
    return Effects(
        roles[_REG],
        roles[_RM],
        roles[_VVVV],
        roles[_OPREG],
        mem,
        mem_size,
        unit,
        _STACK.get(instruction.mnemonic, StackUse.STACK_NONE),
        read,
        write,
        tested,
        killed,
        written,
        size or mem_size,
        _width(op_code),
        int(traps),
    )


def _width(op_code: OpCodeInfo) -> int:
    """Return the operand size in bytes that the prefix 66h selects, or 0 if it has another use."""
    if op_code.mandatory_prefix == MandatoryPrefix.P66 or op_code.encoding != EncodingKind.LEGACY:
        return 0
    return op_code.operand_size // 8


def _registers(
    instruction: Instruction, op_code: OpCodeInfo, info: InstructionInfo
) -> tuple[list[int], int, int]:
    """Return the roles of the register fields, the mask of registers named, the operand size."""
    roles = [0, 0, 0, 0]
    named = 0
    size = op_code.operand_size // 8
    for operand, kind in enumerate(op_code.op_kinds()):
        if instruction.op_kind(operand) != OpKind.REGISTER:
            continue
        register = instruction.op_register(operand)
        if not RegisterExt.is_gpr(register):
            continue
        width = RegisterExt.size(register)
        if size == 0 and kind != K.DX:
            size = width
        field = _FIELDS.get(kind)
        access = _ROLE_ACCESS.get(info.op_access(operand), 0)
        if field is not None and access:
            roles[field] = _ROLE_SIZES[width] | access
            named |= _mask(register)
    return roles, named, size


def _memory(
    instruction: Instruction, op_code: OpCodeInfo, info: InstructionInfo, memory: bool
) -> tuple[int, int]:
    """Return the `MemUse` of ModRM's memory operand, and the bytes accessed."""
    size = MemorySizeExt.size(op_code.memory_size)
    if size > 255:
        size = 0
    if not memory:
        return MemUse.MEM_NONE, size
    for operand in range(instruction.op_count):
        if instruction.op_kind(operand) == OpKind.MEMORY:
            use = _MEM_ACCESS[info.op_access(operand)]
            break
    else:
        return MemUse.MEM_NONE, size
    if instruction.mnemonic in _LINE_FLUSHES:
        use = MemUse.MEM_READ
    if instruction.mnemonic in _MASKED or instruction.is_vsib:
        use |= MemUse.MEM_MAYBE | MemUse.MEM_LANES
    if op_code.table == OpCodeTableKind.NORMAL and op_code.op_code in _ESCAPES:
        use |= MemUse.MEM_MAYBE
    return use, size


def _implicit(info: InstructionInfo, named: int) -> tuple[int, int]:
    read = write = 0
    for used in info.used_registers():
        if RegisterExt.is_gpr(used.register):
            mask = _mask(used.register) & ~named
            access = _ROLE_ACCESS.get(used.access, 0)
            if access & _READ:
                read |= mask
            if access & _WRITE:
                write |= mask
    return read, write


def _mask(register: Register_) -> int:
    if not RegisterExt.is_gpr(register):
        return 0
    return 1 << RegisterExt.number(RegisterExt.full_register(register))


def _flags(instruction: Instruction) -> tuple[int, int, int]:
    """Return three sets of the status flags and DF: tested, always overwritten, possibly changed.

    A flag that the manual leaves undefined is not always overwritten: AMD's processors preserve
    most of those, and a guest can observe that.
    """
    tested = _rflags(instruction.rflags_read)
    written = _rflags(instruction.rflags_modified)
    killed = written & ~_rflags(instruction.rflags_undefined)
    if instruction.mnemonic in _LOGICAL:
        killed |= _AF
    by_1 = instruction.op_count == 2 and instruction.op_code().op1_kind == K.IMM8_CONST_1
    if instruction.mnemonic in _SHIFTS and not by_1:
        # The count is not in the key, or not known, and a count of 0 changes no flag.
        killed = 0
    repeated = instruction.has_rep_prefix or instruction.has_repne_prefix
    if repeated and instruction.code in _STRING:
        # rCX may be 0.
        killed = 0
    return tested, killed, written


def _rflags(bits: int) -> int:
    return sum(flag for iced, flag in _RFLAGS if bits & iced)


def _unit(instruction: Instruction, vex: bool, kinds: frozenset[int]) -> int:
    if instruction.mnemonic == Mnemonic.WAIT:
        return UnitUse.UNIT_WAIT
    if kinds & _VECTOR or instruction.mnemonic in _VECTOR_CONTROL:
        return UnitUse.UNIT_AVX if vex else UnitUse.UNIT_SSE
    if kinds & _X87_OPERANDS or _X87_FEATURES.intersection(instruction.cpuid_features()):
        return UnitUse.UNIT_X87
    return UnitUse.UNIT_NONE
