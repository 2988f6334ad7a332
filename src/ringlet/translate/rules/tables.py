"""Descriptor-table registers, the task register and the machine status word."""

from iced_x86 import Code

from ringlet.core.ops import Op
from ringlet.translate.rules.registry import Registry

RULES = Registry()


@RULES.rule(
    Code.SGDT_M1632_16,
    Code.SGDT_M1632,
    Code.SGDT_M1664,
    manual="vol. 2B SGDT; vol. 3A 2.4.1",
    robin_irvine=True,
)
def store_gdtr() -> Op:
    """Shows the base and limit of the GDT: unprivileged, and the host's without UMIP.

    Faults: those of the memory operand; a register operand is #UD.  Leaves, then continues.
    """
    return Op.OP_SGDT


@RULES.rule(
    Code.SIDT_M1632_16,
    Code.SIDT_M1632,
    Code.SIDT_M1664,
    manual="vol. 2B SIDT; vol. 3A 2.4.3",
    robin_irvine=True,
)
def store_idtr() -> Op:
    """Shows the base and limit of the IDT: unprivileged, and the host's without UMIP.

    Faults: those of the memory operand; a register operand is #UD.  Leaves, then continues.
    """
    return Op.OP_SIDT


@RULES.rule(
    Code.SLDT_RM16,
    Code.SLDT_R32M16,
    Code.SLDT_R64M16,
    manual="vol. 2B SLDT; vol. 3A 2.4.2",
    robin_irvine=True,
)
def store_ldtr() -> Op:
    """Shows the selector of the LDT: unprivileged, and the host's without UMIP.

    Faults: #UD in real and virtual-8086 mode; those of the memory operand.  Leaves, then continues.
    """
    return Op.OP_SLDT


@RULES.rule(
    Code.STR_RM16,
    Code.STR_R32M16,
    Code.STR_R64M16,
    manual="vol. 2B STR; vol. 3A 2.4.4",
    robin_irvine=True,
)
def store_task_register() -> Op:
    """Shows the selector of the task: unprivileged, and the host's without UMIP.

    Faults: #UD in real and virtual-8086 mode; those of the memory operand.  Leaves, then continues.
    """
    return Op.OP_STR


@RULES.rule(
    Code.SMSW_RM16,
    Code.SMSW_R32M16,
    Code.SMSW_R64M16,
    manual="vol. 2B SMSW; vol. 3A 2.5",
    robin_irvine=True,
)
def store_machine_status() -> Op:
    """Shows CR0 (its low word, or all of it in a register): unprivileged, and the host's.

    Faults: those of the memory operand.  Leaves, then continues.
    """
    return Op.OP_SMSW


@RULES.rule(
    Code.LGDT_M1632_16,
    Code.LGDT_M1632,
    Code.LGDT_M1664,
    manual="vol. 2A LGDT/LIDT; vol. 3A 2.4.1",
)
def load_gdtr() -> Op:
    """Sets the table from which the virtual processor reads descriptors; the host raises #GP.

    Faults: #GP(0) if CPL > 0 or the base is not canonical; those of the memory operand.
    Leaves, then continues: segment registers keep what they hold.
    """
    return Op.OP_LGDT


@RULES.rule(
    Code.LIDT_M1632_16,
    Code.LIDT_M1632,
    Code.LIDT_M1664,
    manual="vol. 2A LGDT/LIDT; vol. 3A 2.4.3",
)
def load_idtr() -> Op:
    """Sets the table by which the virtual processor delivers events; the host raises #GP.

    Faults: #GP(0) if CPL > 0 or the base is not canonical; those of the memory operand.
    Leaves, then continues.
    """
    return Op.OP_LIDT


@RULES.rule(
    Code.LLDT_RM16, Code.LLDT_R32M16, Code.LLDT_R64M16, manual="vol. 2A LLDT; vol. 3A 2.4.2"
)
def load_ldtr() -> Op:
    """Loads LDTR and its hidden part from the guest's GDT; the host raises #GP.

    Faults: #UD in real mode; #GP(0) if CPL > 0; #GP or #NP (selector) for the descriptor; #PF.
    Leaves, then continues.
    """
    return Op.OP_LLDT


@RULES.rule(Code.LTR_RM16, Code.LTR_R32M16, Code.LTR_R64M16, manual="vol. 2A LTR; vol. 3A 2.4.4")
def load_task_register() -> Op:
    """Loads TR and marks the guest's TSS descriptor busy; the host raises #GP.

    Faults: #UD in real mode; #GP(0) if CPL > 0; #GP or #NP (selector) for the descriptor; #PF.
    Leaves, then continues.
    """
    return Op.OP_LTR


@RULES.rule(Code.LMSW_RM16, Code.LMSW_R32M16, Code.LMSW_R64M16, manual="vol. 2A LMSW; vol. 3A 2.5")
def load_machine_status() -> Op:
    """Sets CR0.PE, MP, EM and TS (PE cannot be cleared); the host raises #GP.

    Faults: #GP(0) if CPL > 0; those of the memory operand.
    Leaves and is dispatched again: the key of translations depends on these bits.
    """
    return Op.OP_LMSW


@RULES.rule(Code.CLTS, manual="vol. 2A CLTS; vol. 3A 2.5")
def clear_task_switched() -> Op:
    """Clears CR0.TS, after which floating-point instructions no longer raise #NM.

    Faults: #GP(0) if CPL > 0.  Leaves and is dispatched again: TS is part of the translation's key.
    """
    return Op.OP_CLTS
