"""Branches, calls, returns and the exits of a fragment."""
from ringlet.core.state cimport u32, i64
from ringlet.translate.insn cimport Insn
from ringlet.translate.builder cimport Builder

cdef void emit_op(Builder* b, Insn* i, u32 op) noexcept nogil
# Leave for `op`, for which there must be room; `mem`: r9 is the address of its operand.
cdef void leave_for(Builder* b, Insn* i, u32 op, bint mem) noexcept nogil
# Emit a rel32 that will lead to guest offset `target`.
cdef void add_link(Builder* b, i64 target, u32 conditional) noexcept nogil
cdef void emit_jump(Builder* b, i64 target) noexcept nogil
cdef int emit_branch(Builder* b, Insn* i, u32 flags_dead) noexcept nogil
cdef void lead_home(Builder* b) noexcept nogil
cdef void emit_thunk(Builder* b) noexcept nogil
cdef void emit_check(Builder* b) noexcept nogil
cdef void emit_stale(Builder* b) noexcept nogil
cdef bint ends_fragment(u32 op) noexcept nogil
# Set op_info to the description of the instruction, for which there must be room.
cdef void name_op(Builder* b, Insn* i, u32 op) noexcept nogil
# Go to the RIP in r8.
cdef void emit_indirect(Builder* b) noexcept nogil
