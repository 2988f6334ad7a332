"""Bindings: sums of guest registers that a fragment knows to be in one of its two windows.

A binding is sound while its value stays within the guards (40 GiB) of an access that was performed.
Constants added to its registers are counted; any other write to them ends it.
"""
from ringlet.core.state cimport u8, u32
from ringlet.translate.insn cimport Insn
from ringlet.translate.builder cimport Binding, Builder

cdef enum:
    AHEAD = 48              # number of later instructions to inspect for uses of a binding
    NEVER = AHEAD           # it is not used, or not again with these values
    SMALL_MOVE = 1 << 20    # limit of one constant step, in bytes
    TOTAL_MOVE = 1 << 24    # limit of all steps since the last access

cdef inline Binding binding(u32 base, u32 index, u32 scale) noexcept nogil:
    cdef Binding x
    x.base = <u8>base
    x.index = <u8>index
    x.scale = <u8>scale
    x.accessed = 0
    x.window = 0
    x.moved = 0
    return x

cdef Binding* find_binding(Builder* b, Binding* what) noexcept nogil
cdef void add_binding(Builder* b, Binding* what, u32 window, u32 moved,
                      bint accessed) noexcept nogil
# Return the host register to use for `what`, or 0 if both windows are better kept.
cdef u32 window_for(Builder* b, Binding* what) noexcept nogil
# End the bindings to the window whose addend is in a host register.
cdef void end_window(Builder* b, u32 window) noexcept nogil
# End the copies of the spilled registers in `mask`.
cdef void end_copies(Builder* b, u32 mask) noexcept nogil
# Return the number of instructions to the next use of a binding by the fragment, or NEVER.
cdef u32 next_use(Builder* b, Binding* x) noexcept nogil
# Return the general registers whose old values `i` reads, one bit each.
cdef u32 reads(Insn* i) noexcept nogil
# Note whether the fragment is a loop, and which registers a pass leaves loaded from memory.
cdef void find_loop(Builder* b) noexcept nogil
# Update the bindings and the zero-extended registers for the instruction's register writes.
cdef void retire(Builder* b, Insn* i) noexcept nogil
# Record the bindings at the start of a loop whose body ends with the present ones.
cdef void keep_for_loop(Builder* b) noexcept nogil
cdef bint loop_holds(Builder* b) noexcept nogil
