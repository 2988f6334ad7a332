"""Screening of the bytes that a direct process may execute."""
from ringlet.core.state cimport u8, u32, u64

cdef enum:
    PAGE_WORDS = 64          # of a bitmap of its bytes
    BEFORE = 128             # bytes from which to decode to a sequence that may be a part of others
    MEETS = 64               # bytes after which the chains that begin there have met
    VECTORS = 7              # in XCR0: x87, SSE and AVX, all that a guest with direct processes has

# A walk along the chains of instructions from each of the first bytes of at most a page.
cdef struct Chains:
    u64 seen[64]             # bitmap of the offsets that a chain has come to
    u32 start                # where the present chain begins
    u32 row                  # instructions in a row before the next one
    u32 next                 # offset of the next one
    u32 at                   # the present instruction: its offset,
    u32 length
    u32 kind
    bint trusted             # and whether enough instructions stand before it

# Tell whether a page has no instruction that needs translation behind its first ones.  `cpuid` says
# whether CPUID does.
cdef bint page_clean(const u8* page, bint cpuid) noexcept nogil
# Tell whether none is among its first, nor begins on the page before it.  `before` can be NULL.
cdef bint seam_clean(const u8* before, const u8* page, bint cpuid) noexcept nogil

# Begin a walk, and go on to the next instruction that begins before `last`; False: there is none.
cdef void chains_begin(Chains* w) noexcept nogil
cdef bint chains_next(Chains* w, const u8* code, u32 size, u32 last, bint cpuid) noexcept nogil
# Tell whether decoding comes to an offset wherever it begins before it, also on the page `before`,
# which can be NULL.
cdef bint all_reach(const u8* before, const u8* page, u32 at, bint cpuid) noexcept nogil
# Tell whether XSAVE, XSAVEC or XRSTOR at an offset has an operand [RSP + displacement].
cdef bint saves_on_stack(const u8* page, u32 at) noexcept nogil
# The offset of the constant mask in EAX with which it saves, or 0.
cdef u32 mask_of(const u8* page, u32 at) noexcept nogil
