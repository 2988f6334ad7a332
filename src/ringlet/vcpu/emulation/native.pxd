"""Single instructions on the host's processor, for the general emulator."""
from ringlet.core.state cimport CpuState, u8, u32, u64
from ringlet.vcpu.emulation.operand cimport Operand

# The bounce area: registers, then room for two operands, each with a page of its own.
cdef enum:
    BOUNCE_IN = 0            # gpr[16] to load
    BOUNCE_OUT = 0x80        # gpr[16] as they came back
    BOUNCE_FLAGS_IN = 0x100
    BOUNCE_FLAGS_OUT = 0x108
    BOUNCE_ENTRY = 0x110
    BOUNCE_MXCSR = 0x118
    BOUNCE_FIRST = 0x1000
    BOUNCE_SECOND = 0x3000
    BOUNCE_SIZE = 0x10000

# Offsets in the XSAVE image (SDM 1 table 10-2, 13.4).
cdef enum:
    IMAGE_FOP = 6
    IMAGE_FIP = 8
    IMAGE_FDP = 16
    IMAGE_MMX = 32
    IMAGE_XMM = 160
    IMAGE_BV = 512
    IMAGE_YMM = 576
    IMAGE_SIZE = 832

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
