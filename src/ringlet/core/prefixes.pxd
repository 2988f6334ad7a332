"""Prefixes of instructions in 64-bit mode (SDM 2A 2.1.1, 2.2.1)."""
from ringlet.core.state cimport u8

cdef inline bint is_legacy_prefix(u8 b) noexcept nogil:
    return (b == 0x66 or b == 0x67 or b == 0xF0 or b == 0xF2 or b == 0xF3 or b == 0x64 or b == 0x65
            or b == 0x2E or b == 0x36 or b == 0x3E or b == 0x26)

cdef inline bint is_prefix(u8 b) noexcept nogil:
    """Tell whether a byte is a legacy prefix or REX."""
    return is_legacy_prefix(b) or (b & 0xF0) == 0x40
