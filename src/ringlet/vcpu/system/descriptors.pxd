"""Segment descriptors of the guest's GDT and LDT (SDM 3A 3.4.5, 3.5, 5.8.3.1)."""
from ringlet.core.state cimport CpuState, Segment, AR_G, AR_P, AR_S, u8, u16, u32, u64

cdef struct Descriptor:
    u64 low          # the first 8 bytes
    u64 high         # the second 8 bytes of a system descriptor, when read by read_wide_descriptor
    u64 base         # base of the segment (32 bits, or 64 after read_wide_descriptor)
    u64 linear       # linear address of the descriptor
    u32 limit        # in bytes, the granularity bit applied
    u32 ar           # access rights as in Segment.ar
    u32 selector

cdef enum:
    DESC_OK = 0
    DESC_OUTSIDE = 1     # the selector is beyond the table's limit, or there is no LDT
    # 2 is EMU_FAULT: reading the table raised the exception in exc_*

# System descriptor types of IA-32e mode (SDM 3A table 3-2).
cdef enum:
    SYS_LDT = 2
    SYS_TSS_AVAILABLE = 9
    SYS_TSS_BUSY = 11
    SYS_CALL_GATE = 12
    SYS_INTERRUPT_GATE = 14
    SYS_TRAP_GATE = 15

# System descriptor types that only other modes have.
cdef enum:
    SYS_TSS16_AVAILABLE = 1
    SYS_TSS16_BUSY = 3
    SYS_CALL_GATE16 = 4
    SYS_TASK_GATE = 5
    SYS_INTERRUPT_GATE16 = 6
    SYS_TRAP_GATE16 = 7
    SYS_BUSY = 2         # the bit that makes a TSS busy

# Rights of segments that are loaded without a descriptor: data, read and write, accessed.
cdef enum:
    AR_REAL = 0x93
    AR_VIRTUAL_8086 = 0xF3

cdef inline bint is_null(u32 selector) noexcept nogil:
    return (selector & 0xFFFC) == 0

cdef inline u32 selector_error(u32 selector) noexcept nogil:
    """Return the error code that names a selector: its index and TI (SDM 3A 6.13)."""
    return selector & 0xFFFC

# Tell whether no device has to be asked for the descriptor of a selector.
cdef bint descriptor_in_ram(CpuState* c, u32 selector) noexcept nogil
cdef int read_descriptor(CpuState* c, u32 selector, Descriptor* d) noexcept nogil
cdef int read_wide_descriptor(CpuState* c, u32 selector, Descriptor* d) noexcept nogil
cdef int read_system_descriptor(CpuState* c, u32 selector, Descriptor* d) noexcept nogil
cdef int require(CpuState* c, u32 selector, Descriptor* d) noexcept nogil
cdef int mark_accessed(CpuState* c, Descriptor* d) noexcept nogil
cdef void load_cache(Segment* s, Descriptor* d, u32 selector) noexcept nogil
cdef void load_paragraph(CpuState* c, Segment* s, u32 selector) noexcept nogil
cdef void load_null(Segment* s, u32 selector, u32 dpl) noexcept nogil
cdef inline void load_flat(Segment* s, u32 selector, u32 ar) noexcept nogil:
    """Load a flat 4-GiB segment without a descriptor, as SYSCALL and the like do."""
    s.selector = <u16>selector
    s.ar = ar | AR_P | AR_S | AR_G
    s.limit = <u64>0xFFFFFFFF
    s.base = 0
