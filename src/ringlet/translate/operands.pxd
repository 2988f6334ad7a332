"""Memory operands: the conversion of guest linear addresses to host addresses in windows."""
from ringlet.core.state cimport u8, u32, i64
from ringlet.translate.insn cimport Insn
from ringlet.translate.builder cimport Binding, Builder, Ref

# Emit code that computes the address of `i`'s memory operand, and return the host operand.  With
# `keep`, r8 or r9 is free afterwards.
cdef Ref gather_operand(Builder* b, Insn* i, u32 flags_dead) noexcept nogil
cdef Ref memory_operand(Builder* b, Insn* i, u32 flags_dead, bint keep) noexcept nogil
# Compute the linear address of the memory operand in r9 (for operations that leave the code).
cdef void linear_operand(Builder* b, Insn* i) noexcept nogil
# [base + index + displacement of `i`], host registers.
cdef Ref of_disp(Builder* b, Insn* i, u8 base, u8 index) noexcept nogil
cdef void add_segment(Builder* b, Insn* i) noexcept nogil
cdef Ref gather_operand(Builder* b, Insn* i, u32 flags_dead) noexcept nogil
# Load the addend for the linear address in `reg` into `dst`, without changing a flag.
cdef void lookup(Builder* b, u32 dst, u32 reg) noexcept nogil
cdef Ref window(Builder* b, u32 reg, i64 disp, Binding* what, u32 flags_dead) noexcept nogil
cdef void guest_rsp(Builder* b, u32 dst) noexcept nogil
cdef void bind_rsp(Builder* b, u32 reg) noexcept nogil
cdef void emit_cold(Builder* b) noexcept nogil
cdef u32 load_guest(Builder* b, u32 reg, u32 scratch) noexcept nogil
cdef void probe(Builder* b) noexcept nogil
