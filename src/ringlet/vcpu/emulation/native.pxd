"""Single instructions on the host's processor, for the general emulator."""
from ringlet.core.state cimport CpuState, u8, u32, u64
from ringlet.vcpu.emulation.operand cimport Operand

cdef class Native:
    cdef CpuState* c
    cdef u8* write
    cdef u32 used
    cdef u32 first
    cdef int fd
    cdef u64 enter
    cdef u64 data            # address of the last operand, for the x87 unit
    cdef u64 effective(self, Operand o, u64 offset) noexcept
    cdef u64 linear_address(self, Operand o, u64 offset) noexcept
    cdef int resolve_span(self, Operand o, u64 offset, u32 size, bint write) noexcept
    cdef bint wide(self) noexcept
    cpdef void skip(self, u32 length) noexcept
    cpdef bint reaches(self, u64 target) noexcept
    cdef u8* image(self) noexcept
    cdef int raised(self) except -1

# `c` must outlive it.
cdef Native native_create(CpuState* c)
