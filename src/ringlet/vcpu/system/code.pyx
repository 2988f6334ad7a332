"""Code segments as targets of transfers: checks, and the load of CS (SDM 3A 5.8.1, 20.1.1)."""
from ringlet.core.state cimport (
    SEG_CS, AR_P, AR_L, AR_DB, VEC_GP, VEC_NP, is_canonical, raise_err)
from ringlet.vcpu.system.control cimport update_key
from ringlet.vcpu.system.descriptors cimport load_cache, load_paragraph, selector_error
from ringlet.vcpu.system.registers cimport AR_CONFORMING, code64, dpl_of, long_mode


cdef int check_target(CpuState* c, u32 ar, u32 limit, u64 rip) noexcept nogil:
    """Check that the target is canonical in 64-bit code, or within the limit in other code."""
    if code64(c, ar):
        if is_canonical(rip):
            return 0
    elif rip <= limit:
        return 0
    return raise_err(c, VEC_GP, 0)


cdef int check_same_ring(CpuState* c, u32 selector, Descriptor* d) noexcept nogil:
    """Check a code segment reached without a gate: the CPL does not change (SDM 3A 5.8.1)."""
    if long_mode(c) and d.ar & AR_L and d.ar & AR_DB:
        return raise_err(c, VEC_GP, selector_error(selector))
    if d.ar & AR_CONFORMING:
        if dpl_of(d.ar) > c.arch.cpl:
            return raise_err(c, VEC_GP, selector_error(selector))
    elif selector & 3 > c.arch.cpl or dpl_of(d.ar) != c.arch.cpl:
        return raise_err(c, VEC_GP, selector_error(selector))
    if not d.ar & AR_P:
        return raise_err(c, VEC_NP, selector_error(selector))
    return 0


cdef void enter_code(CpuState* c, Descriptor* d, u32 selector, u32 cpl, u64 rip) noexcept nogil:
    load_cache(&c.arch.seg[SEG_CS], d, (selector & 0xFFFC) | cpl)
    c.arch.cpl = cpl
    c.arch.rip = rip
    update_key(c)


cdef int check_paragraph_target(CpuState* c, u64 rip) noexcept nogil:
    """Check the target of a transfer in real or virtual-8086 mode: CS keeps its limit."""
    if rip <= c.arch.seg[SEG_CS].limit:
        return 0
    return raise_err(c, VEC_GP, 0)


cdef void enter_paragraph(CpuState* c, u32 selector, u64 rip) noexcept nogil:
    load_paragraph(c, &c.arch.seg[SEG_CS], selector)
    c.arch.rip = rip
    update_key(c)
