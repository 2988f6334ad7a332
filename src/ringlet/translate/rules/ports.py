"""Port input and output, which reach the machine's devices and never the host's."""

from iced_x86 import Code

from ringlet.core.ops import Op
from ringlet.translate.rules.registry import Registry

RULES = Registry()


@RULES.rule(
    Code.IN_AL_IMM8,
    Code.IN_AX_IMM8,
    Code.IN_EAX_IMM8,
    Code.IN_AL_DX,
    Code.IN_AX_DX,
    Code.IN_EAX_DX,
    manual="vol. 1 19.5; vol. 2A IN",
)
def port_input() -> Op:
    """Reads a device of the machine; the host would raise #GP, as it has no I/O permission.

    Faults: #GP(0) if CPL > IOPL and the task's I/O bitmap denies the port (#SS and #PF never).
    Leaves with EXIT_IO_IN; EAX is written when the machine has answered.
    """
    return Op.OP_IN


@RULES.rule(
    Code.OUT_IMM8_AL,
    Code.OUT_IMM8_AX,
    Code.OUT_IMM8_EAX,
    Code.OUT_DX_AL,
    Code.OUT_DX_AX,
    Code.OUT_DX_EAX,
    manual="vol. 1 19.5; vol. 2B OUT",
)
def port_output() -> Op:
    """Writes a device of the machine; the host would raise #GP.

    Faults: #GP(0) if CPL > IOPL and the task's I/O bitmap denies the port.
    Leaves with EXIT_IO_OUT.
    """
    return Op.OP_OUT


@RULES.rule(
    Code.INSB_M8_DX,
    Code.INSW_M16_DX,
    Code.INSD_M32_DX,
    manual="vol. 1 19.5; vol. 2A INS/INSB/INSW/INSD",
)
def string_input() -> Op:
    """Reads a device into memory at ES:rDI, with REP rCX times, restartable at each element.

    Faults: #GP(0) for the port as IN does; #PF, #GP or #SS for the memory, before the port is
    read.  Leaves with EXIT_IO_IN per element or run.
    """
    return Op.OP_INS


@RULES.rule(
    Code.OUTSB_DX_M8,
    Code.OUTSW_DX_M16,
    Code.OUTSD_DX_M32,
    manual="vol. 1 19.5; vol. 2B OUTS/OUTSB/OUTSW/OUTSD",
)
def string_output() -> Op:
    """Writes a device from memory at DS:rSI (or the overriding segment), with REP rCX times.

    Faults: #GP(0) for the port as OUT does; #PF, #GP or #SS for the memory.
    Leaves with EXIT_IO_OUT per element or run.
    """
    return Op.OP_OUTS
