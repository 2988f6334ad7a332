"""Kept translations, which are found again by the guest's bytes.

A translation depends on its key, on its offset in the page, and on some guest bytes of that page:
those it was made from, and those that were inspected for flags.  Some 32-bit fields among them are
only copied (RELOC_FIELD); they differ from boot to boot if a kernel randomizes its address.  A
record holds a translation and its dependencies, and is used wherever all of them agree
(docs/adr/0008).
"""
from ringlet.core.state cimport (
    KEY_CS64K, KEY_CS_ODD, KEY_MODE32, KEY_MODE64, KEY_SEGMENTED, KEY_STACK16, u8, u16, u32, u64,
    i16, i32, OpInfo)
from ringlet.core.template cimport MapEntry, Template
from ringlet.translate.builder cimport Builder, Span

cdef enum:
    BUCKET_BITS = 18
    BUCKETS = 1 << BUCKET_BITS
    ARENA = 128 << 20    # bytes of records, old and new
    LASTING = 32 << 20   # bytes of records that are never forgotten and may outlive the run
    MISSING = 0xFFFF     # in `thunk` and `indirect`: there is none
    FIRST = 8            # offset of the first record; offset 0 ends a bucket's chain

cdef struct Record:
    u32 size             # of the record, a multiple of 8
    u32 next             # arena offset of the next record in its bucket; 0: none
    u32 key
    i32 near_low         # lowest and highest distance from RIP that must lead to 32 bits: see
    i32 near_high        # `distances`
    u16 hits             # whether this run has used it
    u16 unused           # number of runs since its last use
    u16 at               # offset in the page
    u16 prefix           # number of first bytes that choose its bucket
    u16 guest_bytes
    u16 insns
    u16 thunk            # or MISSING
    u16 body
    u16 indirect         # or MISSING
    u16 code_size
    u16 n_exact
    u16 exact_bytes
    u16 n_free
    u16 n_relocs
    u16 n_map
    u16 n_links
    u16 n_ops
    u16 checked          # see ringlet.translate.builder

# The forms of Reloc and Link in a record.
cdef struct PackedReloc:
    u16 at
    u16 kind
    i32 value

cdef struct PackedLink:
    u16 at
    u16 home
    u32 conditional
    i32 target

# Offsets of the parts of a record from its start.
cdef struct Parts:
    u32 relocs
    u32 links
    u32 map
    u32 exact
    u32 free
    u32 bytes
    u32 code
    u32 size


cdef inline Parts parts_of(Record* r) noexcept nogil:
    """Return the offsets of a record's parts, beginning with the operations."""
    cdef Parts p
    p.relocs = <u32>sizeof(Record) + r.n_ops * <u32>sizeof(OpInfo)
    p.links = p.relocs + r.n_relocs * <u32>sizeof(PackedReloc)
    p.map = p.links + r.n_links * <u32>sizeof(PackedLink)
    p.exact = p.map + r.n_map * <u32>sizeof(MapEntry)
    p.free = p.exact + r.n_exact * <u32>sizeof(Span)
    p.bytes = p.free + r.n_free * <u32>sizeof(i16)
    p.code = (p.bytes + r.exact_bytes + 7) & ~<u32>7
    p.size = (p.code + r.code_size + 7) & ~<u32>7
    return p

cdef struct Kept:
    u8* arena            # records from offset 8 on
    u32* buckets         # arena offsets
    u32 used
    u32 lasting          # offset of the first record that may be forgotten; 0: not known yet
    u64 n_found
    u64 n_added
    u64 n_emptied

cdef inline bint may_keep(u32 key) noexcept nogil:
    """Whether code is kept: 64-bit code, and 32-bit code in flat segments of 4 GiB."""
    return key & KEY_MODE64 != 0 or key & (
        KEY_MODE32 | KEY_SEGMENTED | KEY_STACK16 | KEY_CS64K | KEY_CS_ODD) == KEY_MODE32

# Find the translation for the builder's input (code, avail, before, linear, key).  `t` then points
# into the builder and the arena; False: there is none.
cdef bint kept_find(Kept* k, Builder* b, bint indirect, Template* t) noexcept nogil
# Keep the translation of a builder that was `noting`.
cdef void kept_add(Kept* k, Builder* b, Template* t) noexcept nogil
# Put the record at arena offset `at` into its bucket; `bytes` are the first guest bytes.
cdef void kept_enter(Kept* k, u32 at, const u8* bytes) noexcept nogil
