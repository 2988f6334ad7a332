"""Segment descriptors of the guest's GDT and LDT (SDM 3A 3.4.5, 3.5, 5.8.3.1).

The processor reads the tables and writes their accessed bits by supervisor accesses at any CPL
(SDM 3A 4.6.1: implicit supervisor-mode accesses).
"""
from ringlet.core.state cimport (
    AR_S, AR_G, AR_P, AR_UNUSABLE, EMU_FAULT, MEM_MMIO, VEC_GP, raise_err)
from ringlet.mmu.mmu cimport mmu_translate
from ringlet.vcpu.system.memory cimport read_bytes, write_bytes
from ringlet.vcpu.system.registers cimport AR_ACCESSED, long_mode, virtual_8086


cdef int locate(CpuState* c, u32 selector, u32 size, u64* linear) noexcept nogil:
    cdef u64 base
    cdef u32 limit
    cdef u32 offset = selector & 0xFFF8
    if selector & 4:
        if c.arch.ldtr.ar & AR_UNUSABLE or is_null(c.arch.ldtr.selector):
            return DESC_OUTSIDE
        base = c.arch.ldtr.base
        limit = c.arch.ldtr.limit
    else:
        base = c.arch.gdtr.base
        limit = c.arch.gdtr.limit
    if <u64>offset + size - 1 > limit:
        return DESC_OUTSIDE
    linear[0] = base + offset
    if not long_mode(c):
        linear[0] &= <u64>0xFFFFFFFF
    return DESC_OK


cdef void unpack(Descriptor* d, u32 selector) noexcept nogil:
    cdef u64 low = d.low
    d.selector = selector & 0xFFFF
    d.ar = <u32>(low >> 40) & 0xF0FF
    d.limit = <u32>(low & 0xFFFF) | (<u32>(low >> 32) & 0xF0000)
    if d.ar & AR_G:
        d.limit = (d.limit << 12) | 0xFFF
    d.base = ((low >> 16) & 0xFFFFFF) | ((low >> 32) & <u64>0xFF000000)


cdef bint descriptor_in_ram(CpuState* c, u32 selector) noexcept nogil:
    cdef u64 linear = 0, phys = 0
    return (is_null(selector) or locate(c, selector, 8, &linear) != DESC_OK
            or (mmu_translate(c, linear, 0, &phys) != MEM_MMIO
                and mmu_translate(c, linear + 7, 0, &phys) != MEM_MMIO))


cdef int read_descriptor(CpuState* c, u32 selector, Descriptor* d) noexcept nogil:
    """Read the 8-byte descriptor of a selector that is not null: DESC_* or EMU_FAULT."""
    if locate(c, selector, 8, &d.linear):
        return DESC_OUTSIDE
    d.high = 0
    if read_bytes(c, d.linear, &d.low, 8, 0):
        return EMU_FAULT
    unpack(d, selector)
    return DESC_OK


cdef int read_wide_descriptor(CpuState* c, u32 selector, Descriptor* d) noexcept nogil:
    """Read a 16-byte system descriptor (LDT, TSS, call gate): DESC_* or EMU_FAULT."""
    if locate(c, selector, 16, &d.linear):
        return DESC_OUTSIDE
    if read_bytes(c, d.linear, &d.low, 16, 0):
        return EMU_FAULT
    unpack(d, selector)
    d.base |= d.high << 32
    return DESC_OK


cdef int read_system_descriptor(CpuState* c, u32 selector, Descriptor* d) noexcept nogil:
    """Read the descriptor of an LDT, a TSS or a gate, of 16 bytes in IA-32e mode, else of 8."""
    if long_mode(c):
        return read_wide_descriptor(c, selector, d)
    return read_descriptor(c, selector, d)


cdef int require(CpuState* c, u32 selector, Descriptor* d) noexcept nogil:
    """Read a descriptor; a selector beyond its table raises #GP(selector)."""
    cdef int result = read_descriptor(c, selector, d)
    if result == DESC_OUTSIDE:
        return raise_err(c, VEC_GP, selector_error(selector))
    return result


cdef int mark_accessed(CpuState* c, Descriptor* d) noexcept nogil:
    """Set the accessed bit of a segment's descriptor if it is clear (SDM 3A 3.4.5.1)."""
    cdef u8 access
    if not d.ar & AR_S or d.ar & AR_ACCESSED:
        return 0
    access = <u8>(d.ar | AR_ACCESSED)
    if write_bytes(c, d.linear + 5, &access, 1, 0):
        return EMU_FAULT
    d.ar |= AR_ACCESSED
    return 0


cdef void load_cache(Segment* s, Descriptor* d, u32 selector) noexcept nogil:
    s.selector = <u16>selector
    s.ar = d.ar
    s.limit = d.limit
    s.base = d.base


cdef void load_paragraph(CpuState* c, Segment* s, u32 selector) noexcept nogil:
    """Load a segment in real or virtual-8086 mode: the selector is the base, divided by 16.

    Virtual-8086 mode sets limit and rights (SDM 3A 20.2.1).  Real mode keeps the hidden ones, so
    that a limit from protected mode stays; but a null selector may have left none.
    """
    s.selector = <u16>selector
    s.base = (selector & 0xFFFF) << 4
    if virtual_8086(c):
        s.limit = 0xFFFF
        s.ar = AR_VIRTUAL_8086
    elif s.ar & AR_UNUSABLE:
        s.limit = 0xFFFF
        s.ar = AR_REAL


cdef void load_null(Segment* s, u32 selector, u32 dpl) noexcept nogil:
    """Make a segment unusable.  Its base becomes 0, as on Intel's processors; AMD's may keep it."""
    s.selector = <u16>selector
    s.ar = AR_UNUSABLE | (dpl << 5)
    s.limit = 0
    s.base = 0
