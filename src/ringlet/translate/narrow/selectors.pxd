"""Segment registers in 16- and 32-bit code: selectors, and the loads of real mode."""
from ringlet.core.state cimport u32
from ringlet.translate.builder cimport Builder
from ringlet.translate.insn cimport Insn

# Emit the load of a selector into a register, zero-extended.
cdef void load_selector(Builder* b, u32 reg, u32 seg) noexcept nogil
# In real or virtual-8086 mode, load the selector in r8, which becomes the base; r9 is lost.
cdef void load_paragraph(Builder* b, u32 seg) noexcept nogil

# Emit an instruction that reads or loads a segment register; 0: it has to leave.
cdef int emit_selector(Builder* b, Insn* i) noexcept nogil
