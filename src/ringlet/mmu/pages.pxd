"""Pages, and the bitmaps of pages and of table entries."""
from ringlet.core.state cimport u64

cdef enum:
    PAGE_SHIFT = 12
    PAGE_SIZE = 4096

cdef extern from *:
    """
    static inline unsigned ringlet_ctz(unsigned long long v) { return __builtin_ctzll(v); }
    """
    unsigned int lowest_bit "ringlet_ctz"(u64 v) noexcept nogil

cdef inline bint bit_test(const u64* bits, u64 i) noexcept nogil:
    return (bits[i >> 6] >> (i & 63)) & 1

cdef inline void bit_set(u64* bits, u64 i) noexcept nogil:
    bits[i >> 6] |= <u64>1 << (i & 63)

cdef inline void bit_clear(u64* bits, u64 i) noexcept nogil:
    bits[i >> 6] &= ~(<u64>1 << (i & 63))
