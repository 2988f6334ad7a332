"""The iced-x86 codes that a generator names itself, for each size of code."""
from __future__ import annotations

from dataclasses import dataclass

from iced_x86 import Code, Code_, Register_

from tests.differential.operands import R16, R32


@dataclass(frozen=True, slots=True)
class Codes:
    """Codes with the operand size of the mode."""

    registers: tuple[Register_, ...]
    mov_imm: Code_
    add_imm: Code_
    sub_imm: Code_
    sub_imm8: Code_
    lea: Code_
    inc: Code_
    dec: Code_
    dec_rm: Code_
    mov: Code_
    store: Code_
    push: Code_
    push_imm: Code_
    ret: Code_
    ret_imm: Code_
    jmp: Code_
    call: Code_
    jmp_rm: Code_
    call_rm: Code_
    loops: tuple[Code_, ...]
    back: tuple[Code_, ...]


CODES = {
    32: Codes(
        R32, Code.MOV_R32_IMM32, Code.ADD_RM32_IMM32, Code.SUB_RM32_IMM32, Code.SUB_RM32_IMM8,
        Code.LEA_R32_M, Code.INC_R32, Code.DEC_R32, Code.DEC_RM32, Code.MOV_R32_RM32,
        Code.MOV_RM32_R32, Code.PUSH_R32, Code.PUSHD_IMM32, Code.RETND, Code.RETND_IMM16,
        Code.JMP_REL32_32, Code.CALL_REL32_32, Code.JMP_RM32, Code.CALL_RM32,
        (Code.LOOP_REL8_32_ECX, Code.LOOP_REL8_32_ECX, Code.LOOPE_REL8_32_ECX,
         Code.LOOPNE_REL8_32_ECX, Code.LOOP_REL8_32_CX),
        (Code.JNE_REL8_32, Code.JNE_REL32_32, Code.JG_REL8_32)),
    16: Codes(
        R16, Code.MOV_R16_IMM16, Code.ADD_RM16_IMM16, Code.SUB_RM16_IMM16, Code.SUB_RM16_IMM8,
        Code.LEA_R16_M, Code.INC_R16, Code.DEC_R16, Code.DEC_RM16, Code.MOV_R16_RM16,
        Code.MOV_RM16_R16, Code.PUSH_R16, Code.PUSH_IMM16, Code.RETNW, Code.RETNW_IMM16,
        Code.JMP_REL16, Code.CALL_REL16, Code.JMP_RM16, Code.CALL_RM16,
        (Code.LOOP_REL8_16_CX, Code.LOOP_REL8_16_CX, Code.LOOPE_REL8_16_CX,
         Code.LOOPNE_REL8_16_CX, Code.LOOP_REL8_16_ECX),
        (Code.JNE_REL8_16, Code.JNE_REL16, Code.JG_REL8_16)),
}
