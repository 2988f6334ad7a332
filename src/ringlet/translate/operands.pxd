"""Memory operands: from guest linear addresses to host addresses of windows."""
from ringlet.core.state cimport u8, u32, i64
from ringlet.translate.insn cimport Insn
from ringlet.translate.builder cimport Binding, Builder, Ref

# The host operand of `i`'s memory operand, after emitting what computes it.  `bits` is the number
# of the register with a bit offset (BT and its kin) or NO_REG.  With `keep` one of r8 and r9 is
# surely free afterwards.
cdef Ref memory_operand(Builder* b, Insn* i, u32 flags_dead, bint keep) noexcept nogil
# The linear address of the memory operand in r9 (for operations that leave translated code).
cdef void linear_operand(Builder* b, Insn* i) noexcept nogil
# [base + index + displacement of `i`], host registers.
cdef Ref of_disp(Builder* b, Insn* i, u8 base, u8 index) noexcept nogil
cdef void add_segment(Builder* b, Insn* i) noexcept nogil
# An addend for the linear address in `reg` (r9 or a guest register) in r8: no flag is touched.
cdef void lookup(Builder* b, u32 reg) noexcept nogil
cdef Ref window(Builder* b, u32 reg, i64 disp, Binding* what, u32 flags_dead) noexcept nogil
cdef void guest_rsp(Builder* b, u32 dst) noexcept nogil
cdef void bind_rsp(Builder* b, u32 reg) noexcept nogil
cdef void emit_cold(Builder* b) noexcept nogil
cdef u32 load_guest(Builder* b, u32 reg, u32 scratch) noexcept nogil
cdef void probe(Builder* b) noexcept nogil
