"""Segment registers, and the instructions that inspect descriptors."""

from iced_x86 import Code

from ringlet.core.ops import Op
from ringlet.translate.rules.registry import Registry

RULES = Registry()


@RULES.rule(
    Code.MOV_RM16_SREG,
    Code.MOV_R32M16_SREG,
    Code.MOV_R64M16_SREG,
    manual="vol. 2B MOV; vol. 3A 3.4.2",
    robin_irvine=True,
)
def move_from_segment() -> Op:
    """Shows a selector, in CS and SS with the privilege level: the host's says ring 3.

    Faults: #UD for segment registers 6 and 7; those of the memory operand.
    Inlined as a load of the virtual selector, or leaves and continues.
    """
    return Op.OP_MOV_FROM_SEG


@RULES.rule(
    Code.MOV_SREG_RM16,
    Code.MOV_SREG_R32M16,
    Code.MOV_SREG_R64M16,
    manual="vol. 2B MOV; vol. 3A 3.4.2, 5.4-5.6",
    robin_irvine=True,
)
def move_to_segment() -> Op:
    """Loads a segment register from the guest's descriptors, which the host's tables lack.

    Faults: #UD for CS and for registers 6 and 7; #GP, #NP or #SS (selector) for the descriptor;
    #PF; those of the memory operand.  Leaves; a load of SS inhibits interrupts and debug traps
    until after the next instruction.
    """
    return Op.OP_MOV_TO_SEG


@RULES.rule(
    Code.PUSHW_ES,
    Code.PUSHD_ES,
    Code.PUSHW_CS,
    Code.PUSHD_CS,
    Code.PUSHW_SS,
    Code.PUSHD_SS,
    Code.PUSHW_DS,
    Code.PUSHD_DS,
    Code.PUSHW_FS,
    Code.PUSHD_FS,
    Code.PUSHQ_FS,
    Code.PUSHW_GS,
    Code.PUSHD_GS,
    Code.PUSHQ_GS,
    manual="vol. 2B PUSH",
    robin_irvine=True,
)
def push_segment() -> Op:
    """Shows a selector on the stack: the host's register holds the host's.

    Faults: #PF or #SS of the stack.  Leaves, then continues.
    """
    return Op.OP_PUSH_SEG


@RULES.rule(
    Code.POPW_ES,
    Code.POPD_ES,
    Code.POPW_SS,
    Code.POPD_SS,
    Code.POPW_DS,
    Code.POPD_DS,
    Code.POPW_FS,
    Code.POPD_FS,
    Code.POPQ_FS,
    Code.POPW_GS,
    Code.POPD_GS,
    Code.POPQ_GS,
    manual="vol. 2B POP; vol. 3A 5.4-5.6",
    robin_irvine=True,
)
def pop_segment() -> Op:
    """Loads a segment register from the stack, as MOV to it does.

    Faults: #PF or #SS of the stack; #GP, #NP or #SS (selector) for the descriptor.
    Leaves; POP SS inhibits interrupts and debug traps until after the next instruction.
    """
    return Op.OP_POP_SEG


@RULES.rule(
    Code.LES_R16_M1616,
    Code.LES_R32_M1632,
    Code.LDS_R16_M1616,
    Code.LDS_R32_M1632,
    Code.LSS_R16_M1616,
    Code.LSS_R32_M1632,
    Code.LSS_R64_M1664,
    Code.LFS_R16_M1616,
    Code.LFS_R32_M1632,
    Code.LFS_R64_M1664,
    Code.LGS_R16_M1616,
    Code.LGS_R32_M1632,
    Code.LGS_R64_M1664,
    manual="vol. 2A LDS/LES/LFS/LGS/LSS",
)
def load_far_pointer() -> Op:
    """Loads a segment register and a general one from memory; sensitive for the same reason as MOV.

    Faults: as MOV to the segment register; #UD for a register operand; those of the memory.
    Leaves; the general register is written only when the segment was loaded.
    """
    return Op.OP_LOAD_FAR


@RULES.rule(
    Code.LAR_R16_RM16,
    Code.LAR_R32_R32M16,
    Code.LAR_R64_R64M16,
    manual="vol. 2A LAR; vol. 3A 5.10.1",
    robin_irvine=True,
)
def load_access_rights() -> Op:
    """Shows a descriptor if CPL and RPL allow; the host would use its own tables, at CPL 3.

    Faults: #UD in real and virtual-8086 mode; those of the memory operand; #PF of the table.
    Leaves, then continues; writes ZF, and the register only if ZF is 1.
    """
    return Op.OP_LAR


@RULES.rule(
    Code.LSL_R16_RM16,
    Code.LSL_R32_R32M16,
    Code.LSL_R64_R64M16,
    manual="vol. 2A LSL; vol. 3A 5.10.3",
    robin_irvine=True,
)
def load_segment_limit() -> Op:
    """Shows a descriptor's limit if CPL and RPL allow; Linux hides the processor's number there.

    Faults: #UD in real and virtual-8086 mode; those of the memory operand; #PF of the table.
    Leaves, then continues; writes ZF, and the register only if ZF is 1.
    """
    return Op.OP_LSL


@RULES.rule(
    Code.VERR_RM16,
    Code.VERR_R32M16,
    Code.VERR_R64M16,
    manual="vol. 2B VERR/VERW; vol. 3A 5.10.2",
    robin_irvine=True,
)
def verify_read() -> Op:
    """Tests whether a segment is readable at the virtual CPL, in the guest's tables.

    Faults: #UD in real and virtual-8086 mode; those of the memory operand; #PF of the table.
    Leaves, then continues; writes ZF.
    """
    return Op.OP_VERR


@RULES.rule(
    Code.VERW_RM16,
    Code.VERW_R32M16,
    Code.VERW_R64M16,
    manual="vol. 2B VERR/VERW; vol. 3A 5.10.2",
    robin_irvine=True,
)
def verify_write() -> Op:
    """Tests whether a segment is writable at the virtual CPL, in the guest's tables.

    Faults: #UD in real and virtual-8086 mode; those of the memory operand; #PF of the table.
    Leaves, then continues; writes ZF.  It flushes no processor buffers, because the virtual
    processor reports that it is immune to the attacks against which guests use VERW.
    """
    return Op.OP_VERW
