"""The bytes of an instruction with other registers or another memory operand."""
from ringlet.core.state cimport RSP, u32
from ringlet.translate.builder cimport Builder, Ref
from ringlet.translate.insn cimport Insn

cdef inline bint is_away(u32 reg) noexcept nogil:
    """Whether a guest register is away: not in the host register of its number."""
    return reg == RSP or 8 <= reg <= 11

cdef void copy_verbatim(Builder* b, Insn* i) noexcept nogil
cdef void copy_imm(Builder* b, Insn* i) noexcept nogil
cdef void encode(Builder* b, Insn* i, u32 opcode, u32 reg, Ref* mem, u32 rm,
                 u32 vvvv) noexcept nogil
cdef void encode_state(Builder* b, Insn* i, u32 opcode, u32 reg, u32 spilled) noexcept nogil
cdef void load_away(Builder* b, u32 reg, u32 scratch, u32 role) noexcept nogil
cdef void store_away(Builder* b, u32 reg, u32 scratch, u32 role) noexcept nogil
