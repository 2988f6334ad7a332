"""A memory operand of an emulated instruction, and the addresses of its last use."""
from ringlet.core.state cimport u32, u64

cdef class Operand:
    cdef int base            # general registers, -1 for none
    cdef int index
    cdef u32 scale
    cdef u64 displacement    # a RIP-relative one counts from the instruction's start
    cdef bint rip_relative
    cdef int segment         # SEG_*
    cdef u64 mask            # all bits of the address size
    cdef bint stack          # a non-canonical address raises #SS
    cdef public u32 size
    cdef readonly bint reads
    cdef readonly bint writes
    cdef public u32 align
    cdef public bint flushes # code that may only be executed will do too (SDM 2A CLFLUSH)
    cdef readonly u64 linear
    cdef u64 phys[2]         # address of its part in each page
    cdef u32 length[2]
    cdef u32 mmio            # bit i: there is no RAM at phys[i]
