"""Segment registers and the FS and GS bases."""
from ringlet.core.state cimport CpuState, OpInfo, Segment, u8, u16, u32, u64
from ringlet.vcpu.system.descriptors cimport Descriptor

cdef int load_segment(CpuState* c, u32 index, u32 selector) noexcept nogil
cdef int check_stack_segment(CpuState* c, u32 selector, u32 cpl, Descriptor* d) noexcept nogil
cdef void set_segment(CpuState* c, u32 index, u32 selector, u64 base, u32 limit, u32 ar) noexcept nogil

cdef int op_mov_from_seg(CpuState* c, OpInfo* op) noexcept nogil
cdef int op_mov_to_seg(CpuState* c, OpInfo* op) noexcept nogil
cdef int op_push_seg(CpuState* c, OpInfo* op) noexcept nogil
cdef int op_pop_seg(CpuState* c, OpInfo* op) noexcept nogil
cdef int op_load_far(CpuState* c, OpInfo* op) noexcept nogil
cdef int op_swapgs(CpuState* c, OpInfo* op) noexcept nogil
cdef int op_read_base(CpuState* c, OpInfo* op, u32 index) noexcept nogil
cdef int op_write_base(CpuState* c, OpInfo* op, u32 index) noexcept nogil
