"""Undefined instructions, reserved encodings, and instructions that 64-bit code does not have."""

from iced_x86 import Code

from ringlet.core.ops import Op
from ringlet.translate.rules.registry import Registry

RULES = Registry()


@RULES.rule(Code.SERIALIZE, manual="vol. 2B SERIALIZE")
def serialize() -> Op:
    """Offered so that guests need no IRET to serialize; few hosts have the instruction.

    Faults: none.  Leaves and is dispatched again, so that changed code is seen.
    """
    return Op.OP_SERIALIZE


@RULES.rule(
    Code.UD0,
    Code.UD0_R16_RM16,
    Code.UD0_R32_RM32,
    Code.UD0_R64_RM64,
    Code.UD1_R16_RM16,
    Code.UD1_R32_RM32,
    Code.UD1_R64_RM64,
    Code.UD2,
    manual="vol. 2B UD",
)
def undefined() -> Op:
    """Frequent, because guests use them for assertions; a SIGILL on the host takes 11 us.

    Faults: #UD always.  Leaves for the fault.
    """
    return Op.OP_UD


@RULES.rule(
    Code.RDSSPD_R32,
    Code.RDSSPQ_R64,
    manual="vol. 2B RDSSP; vol. 1 17.2",
    absent=True,
)
def read_shadow_stack_pointer() -> Op:
    """A NOP that keeps its register if shadow stacks are disabled, as they are for the guest.

    A host that enables them for this process would show its own pointer.
    Faults: none.  Does nothing.
    """
    return Op.OP_NONE


@RULES.rule(
    Code.BNDMK_BND_M32,
    Code.BNDMK_BND_M64,
    Code.BNDCL_BND_RM32,
    Code.BNDCL_BND_RM64,
    Code.BNDCU_BND_RM32,
    Code.BNDCU_BND_RM64,
    Code.BNDCN_BND_RM32,
    Code.BNDCN_BND_RM64,
    Code.BNDMOV_BND_BNDM64,
    Code.BNDMOV_BND_BNDM128,
    Code.BNDMOV_BNDM64_BND,
    Code.BNDMOV_BNDM128_BND,
    Code.BNDLDX_BND_MIB,
    Code.BNDSTX_MIB_BND,
    manual="vol. 1 D.2; vol. 2B table A-3, 0F 1A and 0F 1B",
    absent=True,
)
def bound_registers() -> Op:
    """MPX, which is not offered, so that its opcodes are NOPs that access no memory.

    A host with MPX enabled might check bounds or load from a bound table.
    Faults: none.  Does nothing.
    """
    return Op.OP_NONE


@RULES.rule(
    *(code for name, code in sorted(vars(Code).items()) if name.startswith("RESERVEDNOP_")),
    manual="vol. 2B 4.3 NOP and table A-3, 0F 0D and 0F 18 to 0F 1F",
    absent=True,
)
def reserved_nop() -> Op:
    """Opcodes reserved for hints, which must be NOPs on every host.

    They are not executed, because a later host may define one of them, and AMD calls some of them
    undefined.
    Faults: none; a memory operand is not accessed.  Does nothing.
    """
    return Op.OP_NONE


@RULES.rule(
    Code.CLDEMOTE_M8,
    Code.PREFETCHIT0_M8,
    Code.PREFETCHIT1_M8,
    manual="vol. 2A CLDEMOTE; vol. 2B PREFETCHh",
    absent=True,
)
def hint_not_offered() -> Op:
    """Hints among the reserved NOPs that belong to features which are not offered.

    To prefetch an instruction, a hint would need the address of its translation.
    Faults: none; memory is not accessed.  Does nothing.
    """
    return Op.OP_NONE


@RULES.rule(
    Code.AAA,
    Code.AAS,
    Code.DAA,
    Code.DAS,
    Code.AAM_IMM8,
    Code.AAD_IMM8,
    Code.SALC,
    Code.INC_R16,
    Code.INC_R32,
    Code.DEC_R16,
    Code.DEC_R32,
    Code.PUSHAW,
    Code.PUSHAD,
    Code.POPAW,
    Code.POPAD,
    Code.BOUND_R16_M1616,
    Code.BOUND_R32_M3232,
    Code.ARPL_RM16_R16,
    Code.ARPL_R32M16_R32,
    Code.ADD_RM8_IMM8_82,
    Code.OR_RM8_IMM8_82,
    Code.ADC_RM8_IMM8_82,
    Code.SBB_RM8_IMM8_82,
    Code.AND_RM8_IMM8_82,
    Code.SUB_RM8_IMM8_82,
    Code.XOR_RM8_IMM8_82,
    Code.CMP_RM8_IMM8_82,
    manual="vol. 2 each; vol. 2B table A-2, superscript i64",
)
def not_in_64_bit_code() -> Op:
    """Innocuous, but host code is 64-bit, where these opcodes are undefined or prefixes.

    Faults: AAM #DE, BOUND #BR, PUSHA and POPA those of the stack.  Leaves for the emulator in
    16-bit and 32-bit code; #UD, or a REX prefix, in 64-bit code.
    """
    return Op.OP_EMULATE
