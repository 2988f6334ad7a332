"""`Plan`: the verifier's description of a host instruction, made once for each encoding."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from types import MappingProxyType
from typing import Final

from iced_x86 import (
    Code,
    CodeSize,
    Instruction,
    InstructionInfo,
    InstructionInfoFactory,
    MemorySizeExt,
    Mnemonic,
    OpAccess,
    OpAccess_,
    OpCodeTableKind,
    OpKind,
    Register,
    Register_,
    RegisterExt,
)

from ringlet.translate.classify import Innocuous, classify
from ringlet.translate.verify.forms import MASK

RSP: Final = 4
NONE: Final = -1

PROBE: Final = bytes.fromhex("3e440fb60424")
"""MOVZX r8d, byte ptr ds:[rsp], in this encoding only (ringlet.core.template)."""

_FACTORY: Final = InstructionInfoFactory()
_WRITES: Final = frozenset(
    {OpAccess.WRITE, OpAccess.READ_WRITE, OpAccess.COND_WRITE, OpAccess.READ_COND_WRITE}
)
_WRITES_ONLY: Final = frozenset({OpAccess.NONE, OpAccess.WRITE, OpAccess.COND_WRITE})
_SURE: Final = frozenset({OpAccess.WRITE, OpAccess.READ_WRITE})
_NO_ACCESS: Final = frozenset({OpAccess.NONE, OpAccess.NO_MEM_ACCESS})
_MAYBE: Final = frozenset({OpAccess.COND_READ, OpAccess.COND_WRITE})
_FS_GS: Final = frozenset({Register.FS, Register.GS})
_BITS: Final = frozenset({Mnemonic.BT, Mnemonic.BTS, Mnemonic.BTR, Mnemonic.BTC})
# x87 instructions: a store that raises an unmasked exception accesses nothing.
_ESCAPES: Final = range(0xD8, 0xE0)
# Sensitive ones that are parts of inlined operations.
_INLINED: Final = frozenset({Code.PUSHFQ, Code.RDTSC})
# Lanes whose mask is 0 are not accessed.
_MASKED: Final = frozenset(
    {Mnemonic.VMASKMOVPS, Mnemonic.VMASKMOVPD, Mnemonic.VPMASKMOVD, Mnemonic.VPMASKMOVQ}
)
# Gathers with 32-bit indices.
_GATHERS: Final = frozenset(
    {Mnemonic.VPGATHERDD, Mnemonic.VPGATHERDQ, Mnemonic.VGATHERDPS, Mnemonic.VGATHERDPD}
)
# Instructions that compute their addresses by special rules.
_IMPLICIT: Final = frozenset(
    {
        Mnemonic.XLATB, Mnemonic.ENTER, Mnemonic.LEAVE, Mnemonic.CALL, Mnemonic.RET,
        Mnemonic.LOOP, Mnemonic.LOOPE, Mnemonic.LOOPNE,
        Mnemonic.MASKMOVQ, Mnemonic.MASKMOVDQU, Mnemonic.VMASKMOVDQU,
    }
)  # fmt: skip


class Kind(Enum):
    """The kinds of instruction for which the verifier has separate rules."""

    OTHER = auto()  # reads and writes as iced-x86 lists
    MOVE = auto()  # 64-bit register to register
    MOVE32 = auto()
    CONSTANT = auto()  # MOV r, imm
    ADD = auto()  # a constant to a 64-bit register
    ALIGN = auto()  # AND RSP, -2^k: lowers RSP by at most 127
    LEA = auto()
    RORX = auto()
    LOW16 = auto()  # MOVZX r32, r16
    SARX = auto()
    MOVSXD = auto()  # from a register
    EXTEND_SIGN = auto()  # other instructions that extend at most 32 bits to 64
    EXCHANGE = auto()  # two 64-bit registers
    SWAP = auto()  # XCHG of a register's low bytes, such as AL and AH
    COMPARE = auto()
    LOAD = auto()  # MOV r64, m64
    STORE = auto()  # MOV m64, r64
    STORE_CONSTANT = auto()  # MOV m, imm
    ADD_MEMORY = auto()  # a constant to 64 bits of memory
    STRING = auto()
    BITS = auto()  # BT, BTS, BTR, BTC m, r
    LOAD16 = auto()  # MOVZX r32, m16
    PROBE = auto()  # the load that the fault handler may skip
    JUMP = auto()
    BRANCH = auto()
    JUMP_TABLE = auto()
    FORBIDDEN = auto()


@dataclass(frozen=True, slots=True)
class Access:
    """A memory access: registers by number, NONE for none."""

    base: int
    index: int
    scale: int
    displacement: int
    size: int
    sure: bool  # the instruction always performs it
    written: bool
    lanes: bool = False  # a gather: each lane adds a 32-bit index times `scale`

    @property
    def constant(self) -> bool:
        """Whether the address contains no register."""
        return self.base == NONE and self.index == NONE and not self.lanes


@dataclass(frozen=True, slots=True)
class Plan:
    """The result of `plan_of`; the kind defines `first`, `second` and `constant`."""

    kind: Kind
    accesses: tuple[Access, ...] = ()
    reads: tuple[int, ...] = ()  # registers whose values are data
    writes: tuple[tuple[int, bool, bool], ...] = ()  # register, zero-extended, upper half kept
    first: int = NONE
    second: int = NONE
    constant: int = 0
    stack: int = 0  # change of RSP
    why: str = ""


def plan_of(i: Instruction, data: bytes) -> Plan:
    """Return the plan of `i`, an instruction of the host whose bytes are `data`."""
    if data == PROBE:
        return Plan(Kind.PROBE)
    info = _FACTORY.info(i)
    why = _forbidden(i, info)
    if why:
        return Plan(Kind.FORBIDDEN, why=why)
    if i.is_jmp_short or i.is_jmp_near:
        return Plan(Kind.JUMP)
    if i.is_jcc_short_or_near or i.is_jcx_short:
        return Plan(Kind.BRANCH, first=1 if i.code == Code.JRCXZ_REL8_64 else NONE)
    accesses = tuple(
        Access(
            _number(m.base),
            _number(m.index),
            m.scale,
            m.displacement,
            MemorySizeExt.size(m.memory_size) or 512,
            _sure(i, m.access),
            m.access in _WRITES,
            bool(m.vsib_size),
        )
        for m in info.used_memory()
        if m.access not in _NO_ACCESS
    )
    kind, first, second, value = _kind(i)
    writes = _writes(i, info)
    return Plan(
        kind, accesses, _reads(i, info), writes, first, second, value, i.stack_pointer_increment
    )


def _sure(i: Instruction, access: OpAccess_) -> bool:
    """Whether `i` never completes without the access."""
    opcode = i.op_code()
    return (
        access not in _MAYBE
        and i.mnemonic not in _MASKED
        and not i.is_vsib
        and not (opcode.table == OpCodeTableKind.NORMAL and opcode.op_code in _ESCAPES)
    )


def _forbidden(i: Instruction, info: InstructionInfo) -> str:
    """Return why `i` is forbidden in translated code, or ""."""
    if i.code == Code.INVALID:
        return "it cannot be decoded"
    if i.is_ip_rel_memory_operand:
        return "its address is relative to the host's RIP"
    if i.mnemonic in _IMPLICIT:
        return "it is not for translated code"
    if i.code not in _INLINED and not isinstance(classify(i.code), Innocuous):
        return "it is sensitive"
    for m in info.used_memory():
        if m.access in _NO_ACCESS:
            continue
        if m.segment in _FS_GS:
            return "its address has the segment FS or GS"
        if m.address_size != CodeSize.CODE64:
            return "its address is cut to 32 bits"
        if m.index and not RegisterExt.is_gpr64(m.index) and i.mnemonic not in _GATHERS:
            return "its addresses are in a vector"
        if m.vsib_size and not RegisterExt.is_gpr64(m.base):
            return "its addresses have no addend"
    return ""


def _number(register: Register_) -> int:
    return RegisterExt.number(register) if RegisterExt.is_gpr64(register) else NONE


def _full(register: Register_) -> int:
    return RegisterExt.number(RegisterExt.full_register(register))


def _reads(i: Instruction, info: InstructionInfo) -> tuple[int, ...]:
    """Return the general registers that `i` reads as data, not for an address."""
    found = set()
    for operand in range(i.op_count):
        if (
            i.op_kind(operand) == OpKind.REGISTER
            and RegisterExt.is_gpr(i.op_register(operand))
            and info.op_access(operand) not in _WRITES_ONLY
        ):
            found.add(_full(i.op_register(operand)))
    in_addresses = {RSP}
    for m in info.used_memory():
        in_addresses |= {_number(m.base), _number(m.index)}
    for used in info.used_registers():
        if RegisterExt.is_gpr(used.register) and used.access not in _WRITES_ONLY:
            found |= {_full(used.register)} - in_addresses
    return tuple(sorted(found))


def _writes(i: Instruction, info: InstructionInfo) -> tuple[tuple[int, bool, bool], ...]:
    """Return the general registers that `i` may write: (number, zero-extended, upper half kept)."""
    found: dict[int, tuple[bool, bool]] = {}
    for used in info.used_registers():
        if RegisterExt.is_gpr(used.register) and used.access in _WRITES:
            narrow = RegisterExt.size(used.register) <= 2
            number = _full(used.register)
            found[number] = (False, narrow and found.get(number, (False, True))[1])
    for operand in range(i.op_count):
        if i.op_kind(operand) == OpKind.REGISTER:
            register, access = i.op_register(operand), info.op_access(operand)
            if RegisterExt.is_gpr32(register) and access in _WRITES:
                found[_full(register)] = (access in _SURE, False)
    if i.is_stack_instruction:
        found.pop(RSP, None)
    return tuple((number, *how) for number, how in sorted(found.items()))


_IN_REGISTERS: Final[Mapping[int, Kind]] = MappingProxyType(
    {
        Code.MOV_R64_RM64: Kind.MOVE,
        Code.MOV_RM64_R64: Kind.MOVE,
        Code.MOV_R32_RM32: Kind.MOVE32,
        Code.MOV_RM32_R32: Kind.MOVE32,
        Code.MOV_R64_IMM64: Kind.CONSTANT,
        Code.MOV_RM64_IMM32: Kind.CONSTANT,
        Code.MOV_R32_IMM32: Kind.CONSTANT,
        Code.ADD_RM64_IMM8: Kind.ADD,
        Code.ADD_RM64_IMM32: Kind.ADD,
        Code.SUB_RM64_IMM8: Kind.ADD,
        Code.SUB_RM64_IMM32: Kind.ADD,
        Code.INC_RM64: Kind.ADD,
        Code.DEC_RM64: Kind.ADD,
        Code.AND_RM64_IMM8: Kind.ALIGN,
        Code.VEX_RORX_R64_RM64_IMM8: Kind.RORX,
        Code.MOVZX_R32_RM16: Kind.LOW16,
        Code.VEX_SARX_R64_RM64_R64: Kind.SARX,
        Code.MOVSXD_R64_RM32: Kind.MOVSXD,
        Code.MOVSX_R64_RM16: Kind.EXTEND_SIGN,
        Code.MOVSX_R64_RM8: Kind.EXTEND_SIGN,
        Code.XCHG_RM64_R64: Kind.EXCHANGE,
        Code.XCHG_R64_RAX: Kind.EXCHANGE,
        Code.XCHG_RM8_R8: Kind.SWAP,
        Code.CMP_RM16_R16: Kind.COMPARE,
        Code.CMP_RM64_R64: Kind.COMPARE,
        Code.CMP_RM64_IMM32: Kind.COMPARE,
    }
)
_WITH_MEMORY: Final[Mapping[int, Kind]] = MappingProxyType(
    {
        Code.MOV_R64_RM64: Kind.LOAD,
        Code.MOV_RM64_R64: Kind.STORE,
        Code.MOVZX_R32_RM16: Kind.LOAD16,
        Code.MOVSXD_R64_RM32: Kind.EXTEND_SIGN,
        Code.MOVSX_R64_RM16: Kind.EXTEND_SIGN,
        Code.MOVSX_R64_RM8: Kind.EXTEND_SIGN,
        Code.MOV_RM32_IMM32: Kind.STORE_CONSTANT,
        Code.MOV_RM64_IMM32: Kind.STORE_CONSTANT,
        Code.JMP_RM64: Kind.JUMP_TABLE,
        Code.ADD_RM64_IMM8: Kind.ADD_MEMORY,
        Code.ADD_RM64_IMM32: Kind.ADD_MEMORY,
        Code.SUB_RM64_IMM8: Kind.ADD_MEMORY,
        Code.SUB_RM64_IMM32: Kind.ADD_MEMORY,
        Code.INC_RM64: Kind.ADD_MEMORY,
        Code.DEC_RM64: Kind.ADD_MEMORY,
    }
)
_NEGATIVE: Final = frozenset({Code.SUB_RM64_IMM8, Code.SUB_RM64_IMM32, Code.DEC_RM64})
_ONE: Final = frozenset({Code.INC_RM64, Code.DEC_RM64})


def _kind(i: Instruction) -> tuple[Kind, int, int, int]:
    """Return the kind with its two registers and its constant."""
    kinds = [i.op_kind(n) for n in range(i.op_count)]
    registers = [
        _full(i.op_register(n)) if kind == OpKind.REGISTER else NONE
        for n, kind in enumerate(kinds)
        if kind != OpKind.REGISTER or RegisterExt.is_gpr(i.op_register(n))
    ]
    first, second = [*registers, NONE, NONE][:2]
    if i.is_string_instruction:
        return Kind.STRING, NONE, NONE, 0
    if i.code == Code.CDQE:
        return Kind.EXTEND_SIGN, 0, NONE, 0
    if OpKind.MEMORY not in kinds:
        kind = _IN_REGISTERS.get(i.code, Kind.OTHER)
        if kind is Kind.ALIGN and (first != RSP or not i.immediate(1) >> 63):
            kind = Kind.OTHER
        if kind is Kind.SWAP and (first != second or i.op0_register == i.op1_register):
            kind = Kind.OTHER
        return kind, first, second, _constant(i, kinds)
    if i.mnemonic == Mnemonic.LEA:
        return Kind.LEA, first, NONE, RegisterExt.size(i.op0_register)
    if i.mnemonic in _BITS and kinds[1] == OpKind.REGISTER:
        return Kind.BITS, second, NONE, RegisterExt.size(i.op1_register)
    kind = _WITH_MEMORY.get(i.code, Kind.OTHER)
    return kind, second if kind is Kind.STORE else first, NONE, _constant(i, kinds)


def _constant(i: Instruction, kinds: Sequence[int]) -> int:
    """Return the effective value of an immediate last operand, or SARX's count register."""
    if i.code == Code.VEX_SARX_R64_RM64_R64:
        return _full(i.op2_register)
    if i.code == Code.CMP_RM16_R16:
        return 16
    value = 1 if i.code in _ONE else 0
    if i.op_count and kinds[-1] not in (OpKind.REGISTER, OpKind.MEMORY):
        value = i.immediate(i.op_count - 1) if i.op_count > 1 else 0
    return -value & MASK if i.code in _NEGATIVE else value & MASK
