"""Conversion of iced-x86's instructions to operands, and to code that uses the bounce area."""

from functools import lru_cache
from typing import Final

from iced_x86 import (
    Code,
    CodeSize,
    Encoder,
    Instruction,
    InstructionInfo,
    InstructionInfoFactory,
    MemorySizeExt,
    OpAccess,
    OpKind,
    Register,
    Register_,
    RegisterExt,
    UsedMemory,
)

from ringlet.vcpu.emulation.operand import Operand

RAX: Final = 0
RCX: Final = 1
RBX: Final = 3
RSP: Final = 4
RBP: Final = 5
RSI: Final = 6
RDI: Final = 7

_SEGMENTS: Final = {
    Register.ES: 0, Register.CS: 1, Register.SS: 2, Register.DS: 3, Register.FS: 4, Register.GS: 5,
}  # fmt: skip
_FS_GS: Final = (Register.FS, Register.GS)
_STACK_BASES: Final = (RSP, RBP)
_MASKS: Final = {CodeSize.CODE16: 0xFFFF, CodeSize.CODE32: 0xFFFFFFFF}
_READS: Final = (OpAccess.READ, OpAccess.COND_READ, OpAccess.READ_WRITE, OpAccess.READ_COND_WRITE)
_WRITES: Final = (
    OpAccess.WRITE, OpAccess.COND_WRITE, OpAccess.READ_WRITE, OpAccess.READ_COND_WRITE,
)  # fmt: skip
ALL64: Final = (1 << 64) - 1

_IN_64_BIT_CODE: Final = {
    Code.INC_R16: Code.INC_RM16,
    Code.INC_R32: Code.INC_RM32,
    Code.DEC_R16: Code.DEC_RM16,
    Code.DEC_R32: Code.DEC_RM32,
    Code.ADD_RM8_IMM8_82: Code.ADD_RM8_IMM8,
    Code.OR_RM8_IMM8_82: Code.OR_RM8_IMM8,
    Code.ADC_RM8_IMM8_82: Code.ADC_RM8_IMM8,
    Code.SBB_RM8_IMM8_82: Code.SBB_RM8_IMM8,
    Code.AND_RM8_IMM8_82: Code.AND_RM8_IMM8,
    Code.SUB_RM8_IMM8_82: Code.SUB_RM8_IMM8,
    Code.XOR_RM8_IMM8_82: Code.XOR_RM8_IMM8,
    Code.CMP_RM8_IMM8_82: Code.CMP_RM8_IMM8,
}
"""Encodings that 64-bit code lacks, each with another encoding of the same instruction."""
_POINTERS: Final = {
    OpKind.MEMORY_SEG_SI: OpKind.MEMORY_SEG_RSI,
    OpKind.MEMORY_SEG_ESI: OpKind.MEMORY_SEG_RSI,
    OpKind.MEMORY_SEG_DI: OpKind.MEMORY_SEG_RDI,
    OpKind.MEMORY_SEG_EDI: OpKind.MEMORY_SEG_RDI,
    OpKind.MEMORY_ESDI: OpKind.MEMORY_ESRDI,
    OpKind.MEMORY_ESEDI: OpKind.MEMORY_ESRDI,
}
"""Implicit operands of narrower addresses, each with that of 64-bit addresses."""


@lru_cache(maxsize=1)
def _info_factory() -> InstructionInfoFactory:
    return InstructionInfoFactory()


def info_of(instruction: Instruction) -> InstructionInfo:
    """Return the registers and the memory that an instruction uses."""
    return _info_factory().info(instruction)


def number(register: Register_) -> int:
    """Return the number of a general register, or -1 for any other."""
    return RegisterExt.number(register) if RegisterExt.is_gpr(register) else -1


def is_canonical(linear: int) -> bool:
    """Whether bits 63..47 of a linear address are all equal."""
    return linear >> 47 in {0, 0x1FFFF}


def size_of(register: Register_) -> int:
    """Return the size of a register in bytes."""
    return RegisterExt.size(register)


def _is_stack(segment: int, base: int) -> bool:
    """Whether the segment is SS; in 64-bit code only FS and GS override it (SDM 1 3.4.4)."""
    return segment not in _FS_GS and base in _STACK_BASES


def operand_of(instruction: Instruction, memory: UsedMemory, *, index: bool = True) -> Operand:
    """Return an operand that iced-x86 lists, without its index if `index` is False.

    XLAT's index, AL, is not a whole register.  The instruction must have been decoded at address 0.
    """
    base = number(memory.base)
    added = number(memory.index) if index else -1
    relative = instruction.is_ip_rel_memory_operand and base < 0 and added < 0
    return Operand(
        base,
        added,
        memory.scale,
        memory.displacement & ALL64,
        relative,
        _SEGMENTS.get(memory.segment, 3),
        _MASKS.get(memory.address_size, ALL64),
        _is_stack(memory.segment, base),
        MemorySizeExt.size(memory.memory_size),
        memory.access in _READS,
        memory.access in _WRITES,
    )


def explicit_operand(
    instruction: Instruction,
    size: int,
    *,
    index: bool = True,
    reads: bool = False,
    writes: bool = False,
) -> Operand:
    """Return the ModRM operand, accessed or not, without its index if that is a vector register."""
    base = instruction.memory_base
    relative = instruction.is_ip_rel_memory_operand
    return Operand(
        -1 if relative else number(base),
        number(instruction.memory_index) if index else -1,
        instruction.memory_index_scale,
        instruction.memory_displacement & ALL64,
        relative,
        _SEGMENTS.get(instruction.memory_segment, 3),
        low_bytes(_address_size(instruction)),
        not relative and _is_stack(instruction.memory_segment, number(base)),
        size,
        reads,
        writes,
    )


def _address_size(instruction: Instruction) -> int:
    """Return the size in bytes of the addresses of an instruction with a ModRM operand."""
    if size_of(instruction.memory_base):
        return size_of(instruction.memory_base)
    if RegisterExt.is_gpr(instruction.memory_index):
        return size_of(instruction.memory_index)
    # Without a register the displacement has the size of the address.
    return instruction.memory_displ_size or 8


def stack_operand(width: int, size: int, *, displacement: int = 0, base: int = RSP) -> Operand:
    """Return a push, below `base`, or a pop, on a stack whose pointer has `width` bytes."""
    push = displacement < 0
    return Operand(
        base, -1, 1, displacement & ALL64, False, _SEGMENTS[Register.SS], low_bytes(width), True,
        size, not push, push,
    )  # fmt: skip


def low_bytes(size: int) -> int:
    """Return the mask of a value of `size` bytes."""
    return (1 << 8 * size) - 1


def has_memory_operand(instruction: Instruction) -> bool:
    """Whether an instruction has a ModRM (or moffs) memory operand."""
    kinds = (instruction.op_kind(i) for i in range(instruction.op_count))
    return OpKind.MEMORY in kinds


def on_bounce(instruction: Instruction, address: int) -> bytes:
    """Return the code with its explicit memory operand at an absolute address below 2 GiB."""
    copy = instruction.copy()
    copy.segment_prefix = Register.NONE
    copy.memory_base = Register.NONE
    copy.memory_index = Register.NONE
    copy.memory_index_scale = 1
    copy.memory_displacement = address
    copy.memory_displ_size = 8
    return encode(copy)


def on_pointers(instruction: Instruction) -> bytes:
    """Return the code with its implicit operands at RSI and RDI, and no segment override."""
    copy = instruction.copy()
    copy.segment_prefix = Register.NONE
    for i in range(copy.op_count):
        copy.set_op_kind(i, _POINTERS.get(copy.op_kind(i), copy.op_kind(i)))
    return encode(copy)


def encode(instruction: Instruction) -> bytes:
    """Return machine code for the host, which does not depend on its address."""
    copy = instruction.copy()
    copy.code = _IN_64_BIT_CODE.get(copy.code, copy.code)
    encoder = Encoder(64)
    encoder.encode(copy, 0)
    return encoder.take_buffer()
