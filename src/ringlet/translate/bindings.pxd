"""Bindings: what a fragment knows to be in the cached window, and how long it may rely on it.

A binding is sound while what it names stays within the guards (40 GiB) of an access that was
performed: constants added to its registers are counted, any other write ends it.
"""
from ringlet.core.state cimport u8, u32
from ringlet.translate.insn cimport Insn
from ringlet.translate.builder cimport Binding, Builder

cdef enum:
    SMALL_MOVE = 1 << 20    # one constant step, bytes
    TOTAL_MOVE = 1 << 24    # all steps since the last access

cdef inline Binding binding(u32 base, u32 index, u32 scale) noexcept nogil:
    cdef Binding x
    x.base = <u8>base
    x.index = <u8>index
    x.scale = <u8>scale
    x.accessed = 0
    x.moved = 0
    return x

cdef Binding* find_binding(Builder* b, Binding* what) noexcept nogil
cdef void add_binding(Builder* b, Binding* what, u32 moved, bint accessed) noexcept nogil
# What the instruction's register writes do to the bindings and zero-extended registers.
cdef void retire(Builder* b, Insn* i) noexcept nogil
# The bindings that hold at the start of a loop whose body ends with the present ones.
cdef void keep_for_loop(Builder* b) noexcept nogil
cdef bint loop_holds(Builder* b) noexcept nogil
