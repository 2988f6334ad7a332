"""Innocuous instructions of 16- and 32-bit code."""
from ringlet.translate.builder cimport Builder
from ringlet.translate.insn cimport Insn

# Emit an instruction that 64-bit code has in another encoding alone; 0: it has none.
cdef int emit_reencoded(Builder* b, Insn* i) noexcept nogil
# Emit the instruction; 0: there is no code for it.
cdef int emit_narrow_plain(Builder* b, Insn* i) noexcept nogil
