"""Copies of spilled guest registers in window registers."""
from ringlet.core.state cimport u8, u32
from ringlet.translate.bindings cimport *
from ringlet.translate.builder cimport *
from ringlet.translate.insn cimport NO_REG
from ringlet.translate.shape cimport ROLE_WRITE


cdef u32 held(Builder* b, u32 reg) noexcept nogil:
    cdef Binding what = binding(reg, NO_REG, HELD)
    cdef Binding* known = find_binding(b, &what) if 8 <= reg <= 11 else NULL
    if known == NULL:
        return 0
    b.pinned |= <u32>1 << known.window
    return known.window


cdef u32 hold(Builder* b, u32 reg, u32 role) noexcept nogil:
    cdef Binding what = binding(reg, NO_REG, HELD)
    cdef u32 window
    if not 8 <= reg <= 11:
        return 0
    if b.results >> reg & 1:
        return b.result_in[reg - 8]
    window = held(b, reg)
    if window == 0:
        window = window_for(b, &what) if next_use(b, &what) < NEVER else 0
        if window == 0:
            return 0
        end_window(b, window)
        b.pinned |= <u32>1 << window
        if reads(b.now) >> reg & 1:
            load_state(b, window, reg * 8)
            add_binding(b, &what, window, 0, True)
    if role & ROLE_WRITE:
        b.results |= <u32>1 << reg
        b.result_in[reg - 8] = <u8>window
    return window


cdef void store_held(Builder* b) noexcept nogil:
    cdef u32 reg
    for reg in range(8, 12):
        if b.results >> reg & 1:
            store_state(b, b.result_in[reg - 8], reg * 8)
