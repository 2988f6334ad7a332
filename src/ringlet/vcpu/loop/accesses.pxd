"""The memory accesses of an instruction of 64-bit code."""
from ringlet.core.state cimport CpuState, u32, u64
from ringlet.translate.insn cimport Insn

# One access to data.
cdef struct Access:
    u64 linear
    u32 size
    u32 kind       # ACC_READ or ACC_WRITE
    bint stack     # through RSP or RBP: raises #SS instead of #GP if not canonical

# List the accesses of an instruction in order, at most three; c.arch.gpr holds the registers.
cdef u32 accesses(CpuState* c, Insn* i, u64 rip, Access* out) noexcept nogil
