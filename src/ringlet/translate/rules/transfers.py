"""Transfers that change privilege, code segment or the interrupt state."""

from iced_x86 import Code

from ringlet.core.ops import Op
from ringlet.translate.rules.registry import Registry

RULES = Registry()


@RULES.rule(Code.INT_IMM8, manual="vol. 2A INT n; vol. 3A 6.12, 6.14", robin_irvine=True)
def software_interrupt() -> Op:
    """Enters the guest's handler through the guest's IDT; the host would enter Linux.

    Faults: #GP or #NP for the gate (#GP if its DPL < CPL), #TS, #SS or #PF for the stack.
    Leaves; execution continues at the handler.
    """
    return Op.OP_INT


@RULES.rule(Code.INT3, manual="vol. 2A INT3; vol. 3A 6.4.2")
def breakpoint_trap() -> Op:
    """Raises the guest's #BP, a trap; the host would send SIGTRAP to this process.

    Faults: as INT 3, but never #GP for IOPL in virtual-8086 mode.  Leaves for the handler.
    """
    return Op.OP_INT3


@RULES.rule(Code.INT1, manual="vol. 2A INT1; vol. 3A 6.3.1")
def debug_trap() -> Op:
    """Raises the guest's #DB without a check of the gate's DPL; the host would send SIGTRAP.

    Faults: those of delivery.  Leaves for the handler.
    """
    return Op.OP_INT1


@RULES.rule(Code.INTO, manual="vol. 2A INTO")
def overflow_trap() -> Op:
    """Raises the guest's #OF if OF is 1; 64-bit host code does not have this instruction.

    Faults: as INT 4, but never #GP for IOPL in virtual-8086 mode; #UD in 64-bit code.
    Leaves; continues at the handler, or behind it if OF is 0.
    """
    return Op.OP_INTO


@RULES.rule(Code.IRETW, Code.IRETD, Code.IRETQ, manual="vol. 2A IRET/IRETD/IRETQ; vol. 3A 6.14.3")
def interrupt_return() -> Op:
    """Loads CS, RIP, RFLAGS, SS and RSP: it may change privilege, mode and IF.

    Faults: #GP, #NP, #SS or #PF for the frame and its segments.  Leaves; continues where the frame
    says, after the interrupts that IF now allows; unblocks NMIs.
    """
    return Op.OP_IRET


@RULES.rule(Code.SYSCALL, manual="vol. 2B SYSCALL; vol. 3A 5.8.8")
def system_call() -> Op:
    """Enters the guest's kernel at IA32_LSTAR; on the host it would call Linux.

    Faults: #UD if EFER.SCE is 0 or outside 64-bit mode.  Leaves; continues at the entry point.
    """
    return Op.OP_SYSCALL


@RULES.rule(Code.SYSRETD, Code.SYSRETQ, manual="vol. 2B SYSRET; vol. 3A 5.8.8")
def system_return() -> Op:
    """Returns to ring 3 with the RFLAGS in R11; the host would raise #GP.

    Faults: #UD if EFER.SCE is 0; #GP(0) if CPL > 0 or RCX is not canonical.
    Leaves; execution continues at RCX, after the interrupts that IF now allows.
    """
    return Op.OP_SYSRET


@RULES.rule(Code.SYSENTER, manual="vol. 2B SYSENTER; vol. 3A 5.8.7")
def fast_system_call() -> Op:
    """Enters the guest's kernel at IA32_SYSENTER_EIP; on the host it would call Linux.

    Faults: #GP(0) if IA32_SYSENTER_CS holds a null selector or in real mode.
    Leaves; continues at the entry point.
    """
    return Op.OP_SYSENTER


@RULES.rule(Code.SYSEXITD, Code.SYSEXITQ, manual="vol. 2B SYSEXIT; vol. 3A 5.8.7")
def fast_system_return() -> Op:
    """Returns to ring 3 with RSP from RCX and RIP from RDX; the host would raise #GP.

    Faults: #GP(0) if CPL > 0, the SYSENTER selector is null, or RCX or RDX is not canonical.
    Leaves; execution continues at RDX.
    """
    return Op.OP_SYSEXIT


@RULES.rule(
    Code.CALL_M1616,
    Code.CALL_M1632,
    Code.CALL_M1664,
    Code.CALL_PTR1616,
    Code.CALL_PTR1632,
    manual="vol. 2A CALL; vol. 3A 5.8",
    robin_irvine=True,
)
def far_call() -> Op:
    """Loads CS from the guest's descriptors, perhaps through a gate to another privilege.

    Faults: #GP, #NP, #SS, #TS or #PF for the pointer, the descriptor and the stack; a gate's DPL
    is compared with the virtual CPL, which the host does not know.  Leaves and continues there.
    """
    return Op.OP_CALL_FAR


@RULES.rule(
    Code.JMP_M1616,
    Code.JMP_M1632,
    Code.JMP_M1664,
    Code.JMP_PTR1616,
    Code.JMP_PTR1632,
    manual="vol. 2A JMP; vol. 3A 5.8",
    robin_irvine=True,
)
def far_jump() -> Op:
    """Loads CS from the guest's descriptors, and with it the mode of the code that follows.

    Faults: #GP, #NP or #PF for the pointer and the descriptor.  Leaves and continues there.
    """
    return Op.OP_JMP_FAR


@RULES.rule(
    Code.RETFW,
    Code.RETFD,
    Code.RETFQ,
    Code.RETFW_IMM16,
    Code.RETFD_IMM16,
    Code.RETFQ_IMM16,
    manual="vol. 2B RET; vol. 3A 5.8.6",
    robin_irvine=True,
)
def far_return() -> Op:
    """Loads CS and RIP, and SS and RSP when it returns to an outer privilege.

    Faults: #GP, #NP, #SS or #PF for the frame and its segments.  Leaves and continues there.
    """
    return Op.OP_RET_FAR


@RULES.rule(Code.HLT, manual="vol. 2A HLT")
def halt() -> Op:
    """Stops the virtual processor until an interrupt; the host would raise #GP.

    Faults: #GP(0) if CPL > 0.  Leaves with EXIT_HLT unless an interrupt is deliverable.
    """
    return Op.OP_HLT
