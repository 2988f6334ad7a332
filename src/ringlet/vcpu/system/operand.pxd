"""Parts of a sensitive instruction's bytes: opcode, REX prefix, base of its memory operand."""
from ringlet.core.state cimport OpInfo, u8, u32

cdef u32 opcode_of(OpInfo* op) noexcept nogil
cdef u32 opcode_index(OpInfo* op) noexcept nogil
cdef u32 rex_of(OpInfo* op) noexcept nogil
cdef bint on_stack(OpInfo* op) noexcept nogil
