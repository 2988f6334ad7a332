"""Accesses to guest memory by compiled code and devices: physical, and linear through a walk."""
from ringlet.core.state cimport CpuState, u8, u32, u64, ACC_WRITE, MEM_FAULT, MEM_MMIO, MEM_OK
from ringlet.mmu.layout cimport Mmu, TLB_SIZE, Tlb, Walk
from ringlet.mmu.pages cimport PAGE_SHIFT, PAGE_SIZE
from ringlet.mmu.ram cimport GuestRam, about_to_write, is_code, is_ram, ram_at, ram_left
from ringlet.mmu.walker cimport resolve


cdef void copy_bytes(u8* dst, const u8* src, u64 size) noexcept nogil:
    """memcpy that touches no vector register."""
    cdef u64 i = 0
    while i + 8 <= size:
        (<u64*>(dst + i))[0] = (<const u64*>(src + i))[0]
        i += 8
    while i < size:
        dst[i] = src[i]
        i += 1


cdef int mmio(CpuState* c, u64 phys, u64 linear) noexcept nogil:
    c.mmio_phys = phys
    c.mmio_linear = linear
    return MEM_MMIO


cdef int phys_access(CpuState* c, Mmu* m, u64 phys, u8* data, u64 size, bint write) noexcept nogil:
    """Copy to or from guest physical memory.  Return MEM_MMIO if not all of it is RAM: nothing was
    copied then, and mmio_phys is the first byte that is not RAM."""
    cdef GuestRam* g = m.ram
    cdef u64 left = ram_left(g, phys)
    cdef u64 page
    if left == 0 or left < size:
        return mmio(c, phys + left, 0)
    if not write:
        copy_bytes(data, ram_at(g, phys), size)
        return MEM_OK
    page = phys & ~<u64>(PAGE_SIZE - 1)
    while page < phys + size:
        if is_code(g, page):
            about_to_write(g, page)
        page += PAGE_SIZE
    copy_bytes(ram_at(g, phys), data, size)
    return MEM_OK


cdef int translate_linear(CpuState* c, Mmu* m, u64 linear, u32 access, u64* phys) noexcept nogil:
    """Give the guest physical address of an access.  Return MEM_MMIO if there is no RAM there."""
    cdef Walk w
    cdef u64 tag = (linear & ~<u64>(PAGE_SIZE - 1)) | access | 1
    cdef Tlb* t = &m.tlb[((linear >> PAGE_SHIFT) ^ access) & (TLB_SIZE - 1)]
    if t.tag == tag:
        phys[0] = t.phys | (linear & (PAGE_SIZE - 1))
        return MEM_OK
    if resolve(c, m, linear, access, &w) != MEM_OK:
        return MEM_FAULT
    phys[0] = w.phys
    if not is_ram(m.ram, w.phys):
        return mmio(c, w.phys, w.linear)
    t.tag = tag
    t.phys = w.phys & ~<u64>(PAGE_SIZE - 1)
    return MEM_OK


cdef int linear_access(CpuState* c, Mmu* m, u64 linear, u8* data, u32 size,
                       u32 access) noexcept nogil:
    """Copy to or from linear addresses.  An access that crosses pages is checked on all of them
    before a byte moves; it may span at most 4096 bytes beyond the first page."""
    cdef u64 phys = 0
    cdef u64 second = 0
    cdef u64 first = PAGE_SIZE - (linear & (PAGE_SIZE - 1))
    cdef int result
    cdef bint write = (access & ACC_WRITE) != 0
    while size > first + PAGE_SIZE:
        result = linear_access(c, m, linear, data, <u32>first, access)
        if result != MEM_OK:
            return result
        linear += first
        data += first
        size -= <u32>first
        first = PAGE_SIZE
    result = translate_linear(c, m, linear, access, &phys)
    if result != MEM_OK:
        return result
    if size <= first:
        return phys_access(c, m, phys, data, size, write)
    result = translate_linear(c, m, linear + first, access, &second)
    if result != MEM_OK:
        return result
    phys_access(c, m, phys, data, <u32>first, write)
    return phys_access(c, m, second, data + first, size - <u32>first, write)
