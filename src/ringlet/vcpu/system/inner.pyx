"""Stacks of inner rings, named by a 16- or 32-bit TSS (SDM 3A 5.8.5, 7.2.1, 7.6)."""
from ringlet.core.state cimport (
    AR_P, AR_S, AR_UNUSABLE, EMU_FAULT, VEC_SS, VEC_TS, raise_err)
from ringlet.vcpu.system.descriptors cimport (
    DESC_OUTSIDE, Descriptor, is_null, load_cache, mark_accessed, read_descriptor, selector_error)
from ringlet.vcpu.system.memory cimport read_bytes
from ringlet.vcpu.system.registers cimport AR_CODE, AR_WRITABLE, SYS_32_BIT, dpl_of


cdef int read_inner_stack(CpuState* c, u32 cpl, InnerStack* stack) noexcept nogil:
    """Read the stack of ring `cpl` from the TSS and check its segment: 0 or EMU_FAULT.

    All its faults are #TS, but for a segment that is not present: #SS.
    """
    cdef Descriptor d
    cdef bint wide = c.arch.tr.ar & SYS_32_BIT != 0
    cdef u32 size = 4 if wide else 2
    cdef u32 offset = 4 + 8 * cpl if wide else 2 + 4 * cpl
    cdef u32 selector
    cdef u16 named = 0
    cdef int result
    if c.arch.tr.ar & AR_UNUSABLE or offset + size + 1 > c.arch.tr.limit:
        return raise_err(c, VEC_TS, selector_error(c.arch.tr.selector))
    stack.rsp = 0
    if read_bytes(c, c.arch.tr.base + offset, &stack.rsp, size, 0) or read_bytes(
            c, c.arch.tr.base + offset + size, &named, 2, 0):
        return EMU_FAULT
    selector = named
    stack.error = selector_error(selector)
    if is_null(selector):
        return raise_err(c, VEC_TS, 0)
    result = read_descriptor(c, selector, &d)
    if result == EMU_FAULT:
        return EMU_FAULT
    if (result == DESC_OUTSIDE or selector & 3 != cpl or dpl_of(d.ar) != cpl or not d.ar & AR_S
            or d.ar & AR_CODE or not d.ar & AR_WRITABLE):
        return raise_err(c, VEC_TS, stack.error)
    if not d.ar & AR_P:
        return raise_err(c, VEC_SS, stack.error)
    if mark_accessed(c, &d):
        return EMU_FAULT
    load_cache(&stack.ss, &d, selector)
    return 0
