"""Sensitive operations that need not leave translated code."""
from ringlet.translate.insn cimport Insn
from ringlet.translate.builder cimport Builder

# Emit an operation in place; 0: it has to leave.
cdef int emit_inline_op(Builder* b, Insn* i) noexcept nogil
