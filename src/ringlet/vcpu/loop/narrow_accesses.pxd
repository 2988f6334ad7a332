"""The memory accesses of an instruction of 16- or 32-bit code."""
from ringlet.core.state cimport CpuState, u32
from ringlet.translate.insn cimport Insn
from ringlet.vcpu.loop.accesses cimport Access

# List the accesses of an instruction in order, at most three; c.arch.gpr holds the registers.
# Limits and rights of segments are not checked.
cdef u32 narrow_accesses(CpuState* c, Insn* i, Access* out) noexcept nogil
