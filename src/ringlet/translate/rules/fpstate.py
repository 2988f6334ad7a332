"""Images of the floating-point and vector state.

They hold the address of the last x87 instruction, which must be the guest's, and as many
components as XCR0 says, which must be the guest's XCR0.
"""

from iced_x86 import Code

from ringlet.core.ops import Op
from ringlet.translate.rules.registry import Registry

RULES = Registry()


@RULES.rule(Code.FXSAVE_M512BYTE, Code.FXSAVE64_M512BYTE, manual="vol. 2A FXSAVE; vol. 1 10.5")
def save_fx_state() -> Op:
    """Stores the address of the last x87 instruction: in translated code, a host address.

    Faults: #NM if CR0.TS or EM; #GP(0) if not aligned to 16; those of the memory operand.
    Leaves, then continues.
    """
    return Op.OP_FXSAVE


@RULES.rule(Code.FXRSTOR_M512BYTE, Code.FXRSTOR64_M512BYTE, manual="vol. 2A FXRSTOR; vol. 1 10.5")
def restore_fx_state() -> Op:
    """Loads the guest's x87 instruction address, to be kept for the next image.

    Faults: #NM if CR0.TS or EM; #GP(0) if not aligned to 16 or MXCSR has reserved bits; those of
    the memory operand.  Leaves, then continues.
    """
    return Op.OP_FXRSTOR


@RULES.rule(Code.XSAVE_MEM, Code.XSAVE64_MEM, manual="vol. 2D XSAVE; vol. 1 13.7")
def save_extended_state() -> Op:
    """Unprivileged; stores what the host's XCR0 has, past the end of a guest's smaller area.

    Faults: #UD if CR4.OSXSAVE is 0; #NM if CR0.TS; #GP(0) if not aligned to 64; those of the
    memory operand.  Leaves; RFBM is masked with the virtual XCR0.
    """
    return Op.OP_XSAVE


@RULES.rule(Code.XSAVEC_MEM, Code.XSAVEC64_MEM, manual="vol. 2D XSAVEC; vol. 1 13.10")
def save_extended_state_compacted() -> Op:
    """As XSAVE, in the compacted format, whose layout depends on the components.

    Faults: as XSAVE.  Leaves; RFBM is masked with the virtual XCR0.
    """
    return Op.OP_XSAVEC


@RULES.rule(Code.XSAVEOPT_MEM, Code.XSAVEOPT64_MEM, manual="vol. 2D XSAVEOPT; vol. 1 13.9")
def save_extended_state_optimized() -> Op:
    """As XSAVE, but may leave out what did not change since an XRSTOR of the same area.

    What the host remembers of that is the last XRSTOR that ran on it, which is not the guest's.
    Faults: as XSAVE.  Leaves; done as XSAVE, which is always correct.
    """
    return Op.OP_XSAVEOPT


@RULES.rule(Code.XSAVES_MEM, Code.XSAVES64_MEM, manual="vol. 2D XSAVES; vol. 1 13.11")
def save_supervisor_state() -> Op:
    """As XSAVEC, with the components in IA32_XSS; the host raises #GP.

    Faults: as XSAVE, and #GP(0) if CPL > 0.  Leaves; masked with the virtual XCR0 and XSS.
    """
    return Op.OP_XSAVES


@RULES.rule(Code.XRSTOR_MEM, Code.XRSTOR64_MEM, manual="vol. 2D XRSTOR; vol. 1 13.8")
def restore_extended_state() -> Op:
    """Unprivileged; would accept components of the host's XCR0 that the guest's lacks.

    Faults: #UD if CR4.OSXSAVE is 0; #NM if CR0.TS; #GP(0) if not aligned to 64 or the header or
    MXCSR is wrong; those of the memory operand.  Leaves; masked with the virtual XCR0.
    """
    return Op.OP_XRSTOR


@RULES.rule(Code.XRSTORS_MEM, Code.XRSTORS64_MEM, manual="vol. 2D XRSTORS; vol. 1 13.12")
def restore_supervisor_state() -> Op:
    """As XRSTOR, compacted only, with the components in IA32_XSS; the host raises #GP.

    Faults: as XRSTOR, and #GP(0) if CPL > 0.  Leaves; masked with the virtual XCR0 and XSS.
    """
    return Op.OP_XRSTORS


@RULES.rule(
    Code.FNSTENV_M14BYTE,
    Code.FSTENV_M14BYTE,
    Code.FNSTENV_M28BYTE,
    Code.FSTENV_M28BYTE,
    manual="vol. 2A FSTENV/FNSTENV; vol. 1 8.1.10",
)
def store_x87_environment() -> Op:
    """Stores the address of the last x87 instruction: the idiom by which code finds itself.

    Faults: #NM if CR0.TS or EM; those of the memory operand.  Leaves; masks all exceptions after.
    """
    return Op.OP_FNSTENV


@RULES.rule(
    Code.FNSAVE_M94BYTE,
    Code.FSAVE_M94BYTE,
    Code.FNSAVE_M108BYTE,
    Code.FSAVE_M108BYTE,
    manual="vol. 2A FSAVE/FNSAVE; vol. 1 8.1.11",
)
def save_x87_state() -> Op:
    """As FNSTENV, with the registers; initializes the x87 afterwards.

    Faults: #NM if CR0.TS or EM; those of the memory operand.  Leaves, then continues.
    """
    return Op.OP_FNSAVE


@RULES.rule(Code.FLDENV_M14BYTE, Code.FLDENV_M28BYTE, manual="vol. 2A FLDENV; vol. 1 8.1.10")
def load_x87_environment() -> Op:
    """Loads the guest's x87 instruction address, to be kept for the next image.

    Faults: #NM if CR0.TS or EM; #MF if an exception is pending; those of the memory operand.
    Leaves, then continues.
    """
    return Op.OP_FLDENV


@RULES.rule(Code.FRSTOR_M94BYTE, Code.FRSTOR_M108BYTE, manual="vol. 2A FRSTOR; vol. 1 8.1.11")
def restore_x87_state() -> Op:
    """As FLDENV, with the registers.

    Faults: as FLDENV.  Leaves, then continues.
    """
    return Op.OP_FRSTOR
