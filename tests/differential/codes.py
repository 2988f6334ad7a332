"""The iced-x86 codes and registers that a generator names itself, for each size of code."""
from __future__ import annotations

from dataclasses import dataclass

from iced_x86 import Code, Code_, Register_

from tests.differential.operands import R16, R32, R64

_Registers = tuple[Register_, ...]


@dataclass(frozen=True, slots=True)
class Pointers:
    """Instructions that move a register with an address."""

    registers: _Registers
    add: Code_
    sub: Code_
    lea: Code_
    inc: Code_
    dec: Code_
    mov: Code_
    displacement: int  # bytes of a displacement of full size, as iced-x86 names them


@dataclass(frozen=True, slots=True)
class Codes:
    """Codes with the operand size of the mode, and those of its pointers."""

    pointers: Pointers
    registers: _Registers
    address: int  # bytes of an address in memory, at least
    mov_imm: Code_
    store: Code_
    push: Code_
    ret: Code_
    ret_imm: Code_
    drops: tuple[int, ...]  # immediates of `ret_imm`
    jmp: Code_
    call: Code_
    jmp_rm: Code_
    call_rm: Code_
    loops: tuple[Code_, ...]
    decs: tuple[tuple[Code_, _Registers], ...]
    sub_imm8: Code_
    back: tuple[Code_, ...]


_POINTERS_32 = Pointers(R32, Code.ADD_RM32_IMM32, Code.SUB_RM32_IMM32, Code.LEA_R32_M, Code.INC_R32,
                        Code.DEC_R32, Code.MOV_R32_RM32, 4)
CODES = {
    64: Codes(
        Pointers(R64, Code.ADD_RM64_IMM32, Code.SUB_RM64_IMM32, Code.LEA_R64_M, Code.INC_RM64,
                 Code.DEC_RM64, Code.MOV_R64_RM64, 8),
        R64, 8, Code.MOV_R64_IMM64, Code.MOV_RM64_R64, Code.PUSH_R64, Code.RETNQ, Code.RETNQ_IMM16,
        (0, 8, 16), Code.JMP_REL32_64, Code.CALL_REL32_64, Code.JMP_RM64, Code.CALL_RM64,
        (Code.LOOP_REL8_64_RCX, Code.LOOP_REL8_64_RCX, Code.LOOPE_REL8_64_RCX,
         Code.LOOPNE_REL8_64_RCX, Code.LOOP_REL8_64_ECX),
        ((Code.DEC_RM64, R64), (Code.DEC_RM32, R32)), Code.SUB_RM64_IMM8,
        (Code.JNE_REL8_64, Code.JNE_REL32_64, Code.JG_REL8_64)),
    32: Codes(
        _POINTERS_32, R32, 4, Code.MOV_R32_IMM32, Code.MOV_RM32_R32, Code.PUSH_R32, Code.RETND,
        Code.RETND_IMM16, (0, 4, 8, 16), Code.JMP_REL32_32, Code.CALL_REL32_32, Code.JMP_RM32,
        Code.CALL_RM32,
        (Code.LOOP_REL8_32_ECX, Code.LOOP_REL8_32_ECX, Code.LOOPE_REL8_32_ECX,
         Code.LOOPNE_REL8_32_ECX, Code.LOOP_REL8_32_CX),
        ((Code.DEC_R32, R32), (Code.DEC_RM32, R32)), Code.SUB_RM32_IMM8,
        (Code.JNE_REL8_32, Code.JNE_REL32_32, Code.JG_REL8_32)),
    16: Codes(
        _POINTERS_32, R16, 4, Code.MOV_R16_IMM16, Code.MOV_RM16_R16, Code.PUSH_R16, Code.RETNW,
        Code.RETNW_IMM16, (0, 4, 8, 16), Code.JMP_REL16, Code.CALL_REL16, Code.JMP_RM16,
        Code.CALL_RM16,
        (Code.LOOP_REL8_16_CX, Code.LOOP_REL8_16_CX, Code.LOOPE_REL8_16_CX,
         Code.LOOPNE_REL8_16_CX, Code.LOOP_REL8_16_ECX),
        ((Code.DEC_R16, R16), (Code.DEC_RM16, R16)), Code.SUB_RM16_IMM8,
        (Code.JNE_REL8_16, Code.JNE_REL16, Code.JG_REL8_16)),
}
