"""Control and debug registers."""

from iced_x86 import Code

from ringlet.core.ops import Op
from ringlet.translate.rules.registry import Registry

RULES = Registry()


@RULES.rule(Code.MOV_R32_CR, Code.MOV_R64_CR, manual="vol. 2B MOV (control registers); vol. 3A 2.5")
def move_from_control() -> Op:
    """Shows CR0, CR2, CR3, CR4 or CR8; the host raises #GP.

    Faults: #GP(0) if CPL > 0; #UD for the other numbers, REX.R counted.  Leaves, then continues.
    """
    return Op.OP_MOV_FROM_CR


@RULES.rule(Code.MOV_CR_R32, Code.MOV_CR_R64, manual="vol. 2B MOV (control registers); vol. 3A 2.5")
def move_to_control() -> Op:
    """Sets paging, protection, the address space or the task priority; the host raises #GP.

    Faults: #GP(0) if CPL > 0, for reserved bits, and for impossible combinations; #UD for the
    other numbers, REX.R counted.  Leaves and is dispatched again.
    """
    return Op.OP_MOV_TO_CR


@RULES.rule(Code.MOV_R32_DR, Code.MOV_R64_DR, manual="vol. 2B MOV (debug registers); vol. 3B 18.2")
def move_from_debug() -> Op:
    """Shows a debug register; the host raises #GP.

    Faults: #GP(0) if CPL > 0; #DB if DR7.GD is 1; #UD for DR4 and DR5 if CR4.DE is 1, and for
    REX.R.  Leaves, then continues.
    """
    return Op.OP_MOV_FROM_DR


@RULES.rule(Code.MOV_DR_R32, Code.MOV_DR_R64, manual="vol. 2B MOV (debug registers); vol. 3B 18.2")
def move_to_debug() -> Op:
    """Sets a breakpoint of the virtual processor; the host raises #GP.

    Faults: #GP(0) if CPL > 0 or the upper half of DR6 or DR7 is not 0; #DB if DR7.GD is 1; #UD
    for DR4 and DR5 if CR4.DE is 1, and for REX.R.  Leaves and is dispatched again.
    """
    return Op.OP_MOV_TO_DR
