"""LEA: an address as a value, without an access."""
from ringlet.translate.builder cimport Builder
from ringlet.translate.insn cimport Insn

cdef int emit_lea(Builder* b, Insn* i) noexcept nogil
