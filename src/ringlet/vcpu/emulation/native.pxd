"""Single instructions on the host's processor, for the general emulator."""
from ringlet.core.state cimport CpuState, u8, u32, u64

# A memory operand, and where its last use led.
cdef class Operand:
    cdef int base            # general registers, -1 for none
    cdef int index
    cdef u32 scale
    cdef u64 displacement    # less the instruction's address if it is relative to that
    cdef bint rip_relative
    cdef int segment         # SEG_*
    cdef u64 mask            # of the address size
    cdef bint stack          # a non-canonical address raises #SS
    cdef public u32 size
    cdef readonly bint reads
    cdef readonly bint writes
    cdef public u32 align
    cdef readonly u64 linear
    cdef u64 phys[2]         # of its part in each page
    cdef u32 length[2]
    cdef u32 mmio            # bit i: there is no RAM at phys[i]

cdef class Native:
    cdef CpuState* c
    cdef u8* write
    cdef u32 used
    cdef u32 first
    cdef int fd
    cdef u64 enter
    cdef u64 data            # linear address of the last operand
    cdef u64 effective(self, Operand o, u64 offset) noexcept
    cdef u64 linear_address(self, Operand o, u64 offset) noexcept
    cdef int resolve_span(self, Operand o, u64 linear, u32 size, bint write) noexcept
    cdef u8* image(self) noexcept
    cdef int raised(self) except -1

# `c` must outlive it.
cdef Native native_create(CpuState* c)
