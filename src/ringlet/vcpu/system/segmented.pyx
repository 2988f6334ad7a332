"""Linear addresses outside 64-bit mode: a segment's checks and its base (SDM 3A 5.3-5.5)."""
from ringlet.core.state cimport (
    ACC_FETCH, ACC_WRITE, AR_DB, AR_UNUSABLE, FLAG_VM, SEG_SS, VEC_GP, VEC_SS, Segment, raise_err)
from ringlet.vcpu.system.registers cimport (
    AR_CODE, AR_EXPAND_DOWN, AR_READABLE, AR_WRITABLE, CR0_PE)


cdef bint real_or_v86(CpuState* c) noexcept nogil:
    """Whether the processor is in real-address or virtual-8086 mode."""
    return not c.arch.cr0 & CR0_PE or c.arch.rflags & FLAG_VM != 0


cdef bint refuses(CpuState* c, Segment* s, u32 access) noexcept nogil:
    """Whether a segment's type forbids the access (SDM 3A 5.5); real mode checks no types."""
    if real_or_v86(c):
        return False
    if s.ar & AR_CODE:
        return access & ACC_WRITE or not (s.ar & AR_READABLE or access & ACC_FETCH)
    return access & ACC_WRITE and not s.ar & AR_WRITABLE


cdef bint is_outside(Segment* s, u64 offset, u32 size) noexcept nogil:
    """Whether an access has a byte beyond the segment's limit (SDM 3A 5.3).

    The SDM lets processors differ in accesses that pass the end of a segment of 4 GiB.  Here they
    fault, as on AMD's processors.
    """
    cdef u64 last = offset + size - 1
    if s.ar & (AR_CODE | AR_EXPAND_DOWN) == AR_EXPAND_DOWN:
        return offset <= s.limit or last > (<u32>0xFFFFFFFF if s.ar & AR_DB else <u32>0xFFFF)
    return last > s.limit


cdef int segment_linear(CpuState* c, u32 seg, u64 offset, u32 size, u32 access,
                        u64* linear) noexcept nogil:
    """Check an access of `size` bytes to a segment; put its linear address into linear[0].

    `offset` is an effective address of 16 or 32 bits.  ACC_WRITE in `access` says that it is a
    write, and ACC_FETCH that code need not be readable.  EMU_FAULT: #SS(0) for SS, otherwise
    #GP(0), is set.
    """
    cdef Segment* s = &c.arch.seg[seg]
    if s.ar & AR_UNUSABLE or refuses(c, s, access) or is_outside(s, offset, size):
        return raise_err(c, VEC_SS if seg == SEG_SS else VEC_GP, 0)
    linear[0] = <u32>(s.base + offset)
    return 0
