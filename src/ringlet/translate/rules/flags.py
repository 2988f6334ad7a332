"""The virtual flags IF, IOPL, NT, VM and AC, and PUSHF and POPF, which access all flags."""

from iced_x86 import Code

from ringlet.core.ops import Op
from ringlet.translate.rules.registry import Registry

RULES = Registry()


@RULES.rule(Code.CLI, manual="vol. 2A CLI; vol. 3A 6.8.1")
def clear_interrupts() -> Op:
    """Clears the virtual IF; the host's IF stays 1, and the host would raise #GP at ring 3.

    Faults: #GP(0) if CPL > IOPL, unless CR4.PVI or VME let it change VIF (vol. 3A 20.3, 20.4).
    Usually inlined: one store.  Otherwise it leaves for the operation and continues after it.
    """
    return Op.OP_CLI


@RULES.rule(Code.STI, manual="vol. 2B STI; vol. 3A 6.8.1")
def set_interrupts() -> Op:
    """Sets the virtual IF; interrupts are inhibited until after the next instruction.

    Faults: #GP(0) if CPL > IOPL.
    Leaves: an interrupt may wait for the end of the next instruction.  Inlined at CPL 0 for the
    case that none does.
    """
    return Op.OP_STI


@RULES.rule(
    Code.PUSHFW,
    Code.PUSHFD,
    Code.PUSHFQ,
    manual="vol. 2B PUSHF/PUSHFD/PUSHFQ",
    robin_irvine=True,
)
def push_flags() -> Op:
    """Shows IF and IOPL: the host would push its own, without any trap.

    Faults: #PF or #SS of the stack; in virtual-8086 mode #GP(0) if IOPL < 3.
    Leaves, or is inlined: merges the host's arithmetic flags with the virtual ones.
    """
    return Op.OP_PUSHF


@RULES.rule(
    Code.POPFW,
    Code.POPFD,
    Code.POPFQ,
    manual="vol. 2B POPF/POPFD/POPFQ, table 4-16",
    robin_irvine=True,
)
def pop_flags() -> Op:
    """Changes IF, IOPL, AC, TF as far as CPL and IOPL allow: the host's ring 3 would ignore them.

    Faults: #PF or #SS of the stack; in virtual-8086 mode #GP(0) if IOPL < 3; a TF that it sets
    raises #DB after the next instruction.  Leaves: if IF became 1, an interrupt may wait.
    """
    return Op.OP_POPF
