"""Parts of a sensitive instruction's bytes: opcode, REX prefix, base of its memory operand."""
from ringlet.core.prefixes cimport is_prefix
from ringlet.core.state cimport SEG_FS, SEG_GS


cdef u32 first_opcode(OpInfo* op) noexcept nogil:
    cdef u32 i = 0
    # REX counts only right before the opcode, but may stand before other prefixes too.  Outside
    # 64-bit mode these bytes are INC and DEC, which are not sensitive.
    while i < 14 and is_prefix(op.bytes[i]):
        i += 1
    return i


cdef u32 opcode_index(OpInfo* op) noexcept nogil:
    """Return the index in op.bytes of the last opcode byte (of the one- and two-byte maps)."""
    cdef u32 i = first_opcode(op)
    return i + 1 if op.bytes[i] == 0x0F else i


cdef u32 opcode_of(OpInfo* op) noexcept nogil:
    """Return the opcode: 00h-FFh, or 100h plus the byte after 0Fh."""
    cdef u32 i = first_opcode(op)
    if op.bytes[i] == 0x0F:
        return 0x100 | op.bytes[i + 1]
    return op.bytes[i]


cdef u32 rex_of(OpInfo* op) noexcept nogil:
    """Return the REX prefix, or 0."""
    cdef u32 i = first_opcode(op)
    if i and op.bytes[i - 1] & 0xF0 == 0x40:
        return op.bytes[i - 1]
    return 0


cdef bint on_stack(OpInfo* op) noexcept nogil:
    """Whether SS is the segment of the ModRM operand: its base is RSP or RBP (SDM 1 3.7.4)."""
    cdef u32 at = opcode_index(op) + 1
    cdef u32 mod = op.bytes[at] >> 6
    cdef u32 base = op.bytes[at] & 7
    if op.rm != 0xFF or op.seg == SEG_FS or op.seg == SEG_GS:
        return False
    if base == 4:
        base = op.bytes[at + 1] & 7
    elif base == 5 and mod == 0:
        return False
    if rex_of(op) & 1:
        return False
    return base == 4 or (base == 5 and mod != 0)
