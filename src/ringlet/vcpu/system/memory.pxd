"""Memory accesses of the virtual processor itself; each returns 0 or EMU_FAULT with exc_* set."""
from ringlet.core.state cimport CpuState, Segment, u8, u16, u32, u64, i64, ACC_USER

cdef inline u32 user_access(CpuState* c) noexcept nogil:
    return <u32>ACC_USER if c.arch.cpl == 3 else 0

# Values that one operation pushes or pops at most: a call through a gate with 31 parameters.
cdef enum:
    MAX_VALUES = 36

cdef int read_bytes(CpuState* c, u64 linear, void* dst, u32 size, u32 access) noexcept nogil
cdef int write_bytes(CpuState* c, u64 linear, const void* src, u32 size, u32 access) noexcept nogil
cdef int check_write(CpuState* c, u64 linear, u32 size, u32 access) noexcept nogil
cdef int check_read(CpuState* c, u64 linear, u32 size, u32 access) noexcept nogil
cdef int load(CpuState* c, u64 linear, u32 size, u64* value) noexcept nogil
cdef int store(CpuState* c, u64 linear, u32 size, u64 value) noexcept nogil
cdef u64 stack_step(CpuState* c, u64 rsp, i64 delta) noexcept nogil
cdef int pop_value(CpuState* c, u64* rsp, u32 size, u64* value) noexcept nogil
cdef int pop_values(CpuState* c, u64* rsp, u64* words, u32 count, u32 size) noexcept nogil
cdef int push_values(CpuState* c, u64* rsp, const u64* words, u32 count, u32 size) noexcept nogil
cdef u64 stack_moved(Segment* ss, u64 rsp, i64 delta) noexcept nogil
cdef int check_stack(CpuState* c, u64 linear, u32 size) noexcept nogil
cdef int check_room(CpuState* c, Segment* ss, u64 rsp, u32 count, u32 size,
                    u32 error) noexcept nogil
cdef int locate_values(CpuState* c, Segment* ss, u64 rsp, u32 count, u32 size, u32 access,
                       u32 error, u64* linear) noexcept nogil
cdef int push_on(CpuState* c, Segment* ss, u64* rsp, const u64* words, u32 count, u32 size,
                 u32 access, u32 error) noexcept nogil
cdef int push_frame(CpuState* c, u64 top, const u64* words, u32 count, u32 access) noexcept nogil
