"""Transfers to other segments in real and virtual-8086 mode, and PUSHF and POPF at CPL 0."""
from ringlet.translate.builder cimport Builder
from ringlet.translate.insn cimport Insn

# Emit CALL, JMP or RET far, INT n or IRET, which ends the fragment; 0: it must leave.
cdef int emit_far(Builder* b, Insn* i) noexcept nogil
# Emit PUSHF at CPL 0, or POPF in real mode; 0: it must leave.
cdef int emit_flags(Builder* b, Insn* i) noexcept nogil
