"""Spilled guest registers, r8-r11, of which a window register holds a copy.

The state block always has the value too: an instruction that writes the register stores its result.
So nothing that leaves a fragment, nor a fault in it, needs to know of the copies.
"""
from ringlet.core.state cimport u32
from ringlet.translate.builder cimport Builder

# Return the host register with a copy of guest register `reg`, or 0.
cdef u32 held(Builder* b, u32 reg) noexcept nogil
# Return the host register to use for operand `reg` of the current instruction, whose role is
# `role`, or 0 if a copy does not pay.  If the instruction reads `reg`, its value is there.
cdef u32 hold(Builder* b, u32 reg, u32 role) noexcept nogil
# Store the current instruction's results, which are in window registers, in the state block.
cdef void store_held(Builder* b) noexcept nogil
