"""Screening of the bytes that a direct process may execute."""
from ringlet.core.state cimport u8

# Tell whether a page has no instruction that needs translation behind its first ones.  `cpuid` says
# whether CPUID does.
cdef bint page_clean(const u8* page, bint cpuid) noexcept nogil
# Tell whether none is among its first, nor begins on the page before it.  `before` can be NULL.
cdef bint seam_clean(const u8* before, const u8* page, bint cpuid) noexcept nogil
# Make a copy of a page on which such instructions are replaced by HLT.  False: other bytes there
# are refused.
cdef bint page_replace(const u8* page, u8* copy, bint writable, bint cpuid) noexcept nogil
