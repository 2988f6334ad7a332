"""Model-specific registers, time, identification, and the bases of FS and GS."""

from iced_x86 import Code

from ringlet.core.ops import Op
from ringlet.translate.rules.registry import Registry

RULES = Registry()


@RULES.rule(Code.RDMSR, manual="vol. 2B RDMSR; vol. 4")
def read_msr() -> Op:
    """Shows a model-specific register of the virtual processor; the host raises #GP.

    Faults: #GP(0) if CPL > 0 or there is no such register.
    Leaves.
    """
    return Op.OP_RDMSR


@RULES.rule(Code.WRMSR, manual="vol. 2B WRMSR; vol. 4")
def write_msr() -> Op:
    """Sets a model-specific register of the virtual processor; the host raises #GP.

    Faults: #GP(0) if CPL > 0, there is no such register, or a reserved bit is set.
    Leaves.  The end of a level-triggered interrupt exits with EXIT_EOI.
    """
    return Op.OP_WRMSR


@RULES.rule(Code.RDTSC, manual="vol. 2B RDTSC; vol. 3B 18.17")
def read_time_stamp() -> Op:
    """Shows the host's time-stamp counter, which lacks the guest's offset.

    Faults: #GP(0) if CR4.TSD is 1 and CPL > 0.  Leaves, or is inlined with the offset added.
    """
    return Op.OP_RDTSC


@RULES.rule(Code.RDTSCP, manual="vol. 2B RDTSCP; vol. 3B 18.17")
def read_time_stamp_and_id() -> Op:
    """Does what RDTSC does and shows IA32_TSC_AUX: the host's names the host's processor.

    Faults: #GP(0) if CR4.TSD is 1 and CPL > 0.  Leaves, then continues.
    """
    return Op.OP_RDTSCP


@RULES.rule(Code.RDPMC, manual="vol. 2B RDPMC; vol. 3B 20.2")
def read_performance_counter() -> Op:
    """Shows a performance counter, of which the virtual processor has none.

    Faults: #GP(0) always: CPL > 0 without CR4.PCE, or no such counter.  Leaves for the fault.
    """
    return Op.OP_RDPMC


@RULES.rule(Code.RDPID_R32, Code.RDPID_R64, manual="vol. 2B RDPID")
def read_processor_id() -> Op:
    """Shows IA32_TSC_AUX: unprivileged, and the host's names the host's processor.

    Faults: none.  Leaves, then continues.
    """
    return Op.OP_RDPID


@RULES.rule(Code.CPUID, manual="vol. 2A CPUID; vol. 1 ch. 20")
def identify_processor() -> Op:
    """Shows the processor's model and features: unprivileged, and the host's has others.

    Faults: none.  Leaves; answers from the table; serializes.
    """
    return Op.OP_CPUID


@RULES.rule(Code.XGETBV, manual="vol. 2D XGETBV; vol. 1 13.3")
def read_extended_control() -> Op:
    """Shows XCR0: unprivileged, and the host's has components the guest's lacks.

    Faults: #UD if CR4.OSXSAVE is 0; #GP(0) for an index other than 0 (and 1: XINUSE).
    Leaves, then continues.
    """
    return Op.OP_XGETBV


@RULES.rule(Code.XSETBV, manual="vol. 2D XSETBV; vol. 1 13.3")
def write_extended_control() -> Op:
    """Sets XCR0, which decides what XSAVE stores and whether AVX exists; the host raises #GP.

    Faults: #UD if CR4.OSXSAVE is 0; #GP(0) if CPL > 0 or the value is not one the table allows.
    Leaves and is dispatched again: AVX is part of the translation's key.
    """
    return Op.OP_XSETBV


@RULES.rule(Code.SWAPGS, manual="vol. 2B SWAPGS")
def swap_gs_base() -> Op:
    """Exchanges the base of GS with IA32_KERNEL_GS_BASE; the host raises #GP.

    Faults: #GP(0) if CPL > 0; #UD outside 64-bit mode.
    Leaves, or is inlined at CPL 0: the host address of GS's base is looked up again.
    """
    return Op.OP_SWAPGS


@RULES.rule(Code.RDFSBASE_R32, Code.RDFSBASE_R64, manual="vol. 2B RDFSBASE/RDGSBASE")
def read_fs_base() -> Op:
    """Shows the base of FS: unprivileged, and the host's is this process's thread pointer.

    Faults: #UD if CR4.FSGSBASE is 0.  Leaves, then continues.
    """
    return Op.OP_RDFSBASE


@RULES.rule(Code.RDGSBASE_R32, Code.RDGSBASE_R64, manual="vol. 2B RDFSBASE/RDGSBASE")
def read_gs_base() -> Op:
    """Shows the base of GS: unprivileged, and the host's is different.

    Faults: #UD if CR4.FSGSBASE is 0.  Leaves, then continues.
    """
    return Op.OP_RDGSBASE


@RULES.rule(Code.WRFSBASE_R32, Code.WRFSBASE_R64, manual="vol. 2D WRFSBASE/WRGSBASE")
def write_fs_base() -> Op:
    """Sets the base of FS: on the host it would move this process's thread pointer.

    Faults: #UD if CR4.FSGSBASE is 0; #GP(0) if the base is not canonical.
    Leaves; the host address of FS's base in the state is looked up again.
    """
    return Op.OP_WRFSBASE


@RULES.rule(Code.WRGSBASE_R32, Code.WRGSBASE_R64, manual="vol. 2D WRFSBASE/WRGSBASE")
def write_gs_base() -> Op:
    """Sets the base of GS: on the host it would change the host's.

    Faults: #UD if CR4.FSGSBASE is 0; #GP(0) if the base is not canonical.
    Leaves; the host address of GS's base in the state is looked up again.
    """
    return Op.OP_WRGSBASE
