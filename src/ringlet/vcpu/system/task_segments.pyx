"""The segment registers of a new task: their checks in the order of SDM 3A table 7-1.

Here a wrong selector raises #TS where another load would raise #GP.  The registers hold the new
selectors from the start, and are unusable until their descriptors are loaded.
"""
from ringlet.core.state cimport (
    SEG_ES, SEG_CS, SEG_SS, SEG_DS, SEG_GS, AR_P, AR_S, AR_UNUSABLE, EMU_FAULT, VEC_NP, VEC_SS,
    VEC_TS, raise_err)
from ringlet.vcpu.system.code cimport is_code
from ringlet.vcpu.system.control cimport update_key
from ringlet.vcpu.system.descriptors cimport (
    DESC_OUTSIDE, Descriptor, SYS_LDT, is_null, load_cache, load_null, load_paragraph,
    mark_accessed, read_descriptor, selector_error)
from ringlet.vcpu.system.registers cimport (
    AR_CODE, AR_CONFORMING, AR_READABLE, AR_WRITABLE, dpl_of, virtual_8086)


cdef int require_task(CpuState* c, u32 selector, Descriptor* d) noexcept nogil:
    """Read a descriptor; a selector that names none raises #TS(selector)."""
    cdef int result = DESC_OUTSIDE
    if not is_null(selector):
        result = read_descriptor(c, selector, d)
    if result == DESC_OUTSIDE:
        return raise_err(c, VEC_TS, selector_error(selector))
    return result


cdef int load_ldt(CpuState* c, u32 selector) noexcept nogil:
    cdef Descriptor d
    load_null(&c.arch.ldtr, selector, 0)
    if is_null(selector):
        return 0
    if selector & 4:
        return raise_err(c, VEC_TS, selector_error(selector))
    if require_task(c, selector, &d):
        return EMU_FAULT
    if d.ar & 0x1F != SYS_LDT or not d.ar & AR_P:
        return raise_err(c, VEC_TS, selector_error(selector))
    load_cache(&c.arch.ldtr, &d, selector)
    return 0


cdef int check_code(CpuState* c, u32 selector, Descriptor* d) noexcept nogil:
    cdef u32 rpl = selector & 3
    if require_task(c, selector, d):
        return EMU_FAULT
    if not is_code(d.ar) or (
            dpl_of(d.ar) > rpl if d.ar & AR_CONFORMING else dpl_of(d.ar) != rpl):
        return raise_err(c, VEC_TS, selector_error(selector))
    return 0


cdef int load_stack(CpuState* c, u32 selector) noexcept nogil:
    cdef Descriptor d
    if require_task(c, selector, &d):
        return EMU_FAULT
    if not d.ar & AR_S or d.ar & AR_CODE or not d.ar & AR_WRITABLE:
        return raise_err(c, VEC_TS, selector_error(selector))
    if not d.ar & AR_P:
        return raise_err(c, VEC_SS, selector_error(selector))
    if dpl_of(d.ar) != c.arch.cpl or selector & 3 != c.arch.cpl:
        return raise_err(c, VEC_TS, selector_error(selector))
    if mark_accessed(c, &d):
        return EMU_FAULT
    load_cache(&c.arch.seg[SEG_SS], &d, selector)
    return 0


cdef int load_data(CpuState* c, u32 index, u32 selector) noexcept nogil:
    cdef Descriptor d
    cdef u32 dpl
    if is_null(selector):
        return 0
    if require_task(c, selector, &d):
        return EMU_FAULT
    dpl = dpl_of(d.ar)
    if not d.ar & AR_S or (d.ar & AR_CODE and not d.ar & AR_READABLE):
        return raise_err(c, VEC_TS, selector_error(selector))
    if not d.ar & AR_P:
        return raise_err(c, VEC_NP, selector_error(selector))
    if not (d.ar & AR_CODE and d.ar & AR_CONFORMING) and (
            dpl < c.arch.cpl or dpl < selector & 3):
        return raise_err(c, VEC_TS, selector_error(selector))
    if mark_accessed(c, &d):
        return EMU_FAULT
    load_cache(&c.arch.seg[index], &d, selector)
    return 0


cdef int load_described(CpuState* c, u32* selectors) noexcept nogil:
    cdef Descriptor cs
    cdef u32 i
    if check_code(c, selectors[SEG_CS], &cs) or load_stack(c, selectors[SEG_SS]):
        return EMU_FAULT
    if not cs.ar & AR_P:
        return raise_err(c, VEC_NP, selector_error(selectors[SEG_CS]))
    if mark_accessed(c, &cs):
        return EMU_FAULT
    load_cache(&c.arch.seg[SEG_CS], &cs, selectors[SEG_CS])
    for i in range(SEG_GS + 1):
        if i != SEG_CS and i != SEG_SS and load_data(c, i, selectors[i]):
            return EMU_FAULT
    return 0


cdef int load_task_segments(CpuState* c, u32* selectors, u32 ldt) noexcept nogil:
    """Load LDTR and the six segment registers; RFLAGS are the new task's already."""
    cdef u32 i
    cdef int result
    c.arch.cpl = 3 if virtual_8086(c) else selectors[SEG_CS] & 3
    for i in range(SEG_GS + 1):
        load_null(&c.arch.seg[i], selectors[i], c.arch.cpl if i == SEG_SS else 0)
        if virtual_8086(c):
            load_paragraph(c, &c.arch.seg[i], selectors[i])
    result = load_ldt(c, ldt)
    if result == 0 and not virtual_8086(c):
        result = load_described(c, selectors)
    update_key(c)
    return result
