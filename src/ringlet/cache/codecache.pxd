"""The code cache: installed fragments, their lookup, links and invalidation."""
from ringlet.core.state cimport CpuState, JUMP_TABLES, OpInfo, i64, u8, u16, u32, u64
from ringlet.core.template cimport MapEntry, STUB_INDIRECT, Template, thunk_miss
from ringlet.core.stubs cimport StubSet

cdef enum:
    NONE = 0xFFFFFFFF
    NOBODY = 0xFFFFFFFF    # a key that there is not
    HASH_BITS = 18
    HASH_SIZE = 1 << HASH_BITS
    PAGE_HASH_BITS = 16
    PAGE_HASH_SIZE = 1 << PAGE_HASH_BITS
    CHUNK_BYTES = 1 << 23
    CHUNK_FRAGMENTS = 1 << 16
    CHUNK_LINKS = 1 << 17
    CHUNK_MAP = 1 << 20
    CHUNKS_MIN = 4
    CHUNKS_MAX = 16
    UNDO_SIZE = 8192
    HOT_SIZE = 1 << 16
    HOT_WRITES = 64    # write faults within a period after which a page is hot
    HOT_AGAIN = 62     # write faults that a hot page starts the next period with
    HOT_BURST = 4      # write faults within a burst after which a page is hot
    BURST_TICKS = 24   # a burst has 2 to the power of this many ticks of the TSC
    MAX_HOT = 64       # hot pages at a time

cdef struct Fragment:
    u64 linear         # of its first byte: what its mapping is known by
    u64 rip            # the guest's RIP there
    u64 phys[2]        # guest physical pages of its bytes; the second may equal the first
    u32 key
    u32 space          # identity of the address space of its half
    u32 host           # offset in the cache; fragments are in order of it
    u32 size
    u32 thunk          # offset in the cache; 0: none
    u32 next_thunk     # fragment whose thunk is tried after this one's, or NONE
    u32 prev_thunk     # fragment whose thunk leads to this one's, or NONE
    u32 body
    u32 map            # index of its first MapEntry
    u32 n_map
    u32 indirect       # cache offset of its jump through the table, or NONE
    u32 table          # 1 + the number of the jump table that it leads through, or 0
    u32 links          # index of its first LinkRec
    u32 n_links
    u32 ops            # offset in the cache of its operations, which its links' stubs precede
    u32 n_ops
    u32 in_links       # links of others that are patched to lead here
    u32 next_hash
    u32 next_linear
    u32 next_phys[2]
    u16 guest_bytes
    u16 insns
    u32 dead
    u32 asked          # how often a watcher was asked before it (ringlet.vcpu.debug.blocks)

cdef struct LinkRec:
    u64 target         # RIP
    u32 at             # cache offset of the rel32
    u32 stub           # cache offset of the stub it leaves by
    u32 home           # where it leads when not linked: the stub, or the start of a loop's copy
    u32 source         # fragment
    u32 next_in        # next link patched to the same fragment
    u32 linked         # fragment, or NONE

# A part of the cache that is filled, and emptied, at a time.  Indices are those of the whole tables.
cdef struct Chunk:
    u32 used           # up to here: fragments
    u32 cold           # from here on: operations, and stubs of links
    u32 n_fragments    # the first free ones
    u32 n_links
    u32 n_map

# A table of indirect targets: fragments of one key and one address space lead through it, and it
# leads to them alone.
cdef struct JumpTable:
    u64* at            # its host address, below 2 GiB; NULL: it is not made yet
    u32 users          # live fragments that lead through it
    u32 count          # of the entries in `index`
    u32 overflow       # there are more
    u16 index[UNDO_SIZE]
    u64 listed[1024]   # a bit for each entry in `index`

cdef struct Cache:
    u8* write          # the writable mapping
    u8* run            # the executable one, below 2 GiB
    u32 size
    u32 first          # where fragments begin, after the stubs
    u32 n_chunks
    u32 filling        # the chunk that gets new fragments; the one after it is the oldest
    u32 generation     # counts times that fragments and links were freed
    u32 drops          # counts fragments dropped since creation
    u32 live
    u32 cut            # the fragment that leaves wherever it ends (ringlet.cache.exits), or NONE
    int fd
    Chunk chunks[CHUNKS_MAX]
    StubSet stubs
    Fragment* fragments
    LinkRec* links
    MapEntry* map
    u32* hash
    u32* linear_hash
    u32* phys_hash
    JumpTable tables[JUMP_TABLES]
    u64 owners[JUMP_TABLES]      # the key and the space of each (`table_owner`); NOBODY: it is free
    u32 last_table     # the one that was looked for last
    u32 next_table     # the next to be taken away when fragments lead through all of them
    u8 writes[HOT_SIZE]          # write faults by page number, in this period
    u16 bursts[HOT_SIZE]         # the same in a burst (low 4 bits), and which burst (the others)
    u64 hot[MAX_HOT]             # pages whose fragments check themselves
    u32 n_hot
    u64 period         # TSC when it began

cdef inline void patch(Cache* k, u32 at, u32 target) noexcept nogil:
    """Make the rel32 at cache offset `at` lead to another cache offset."""
    (<u32*>(k.write + at))[0] = target - (at + 4)

cdef inline u32 page_hash(u64 page) noexcept nogil:
    return <u32>((page * <u64>0x9E3779B97F4A7C15) >> (64 - PAGE_HASH_BITS))

cdef inline u32 fragment_after(Cache* k, u32 index) noexcept nogil:
    """Return the fragment after another, dead or not.  NONE begins and ends the series."""
    index += 1
    while index < k.n_chunks * CHUNK_FRAGMENTS:
        if index < k.chunks[index // CHUNK_FRAGMENTS].n_fragments:
            return index
        index = (index // CHUNK_FRAGMENTS + 1) * CHUNK_FRAGMENTS
    return NONE

cdef inline void lead(Cache* k, LinkRec* l) noexcept nogil:
    """Let a link lead to the fragment to which it is linked, or else to its home."""
    patch(k, l.at, l.home if l.linked == NONE else k.fragments[l.linked].body)

cdef inline void lead_thunk(Cache* k, Fragment* f) noexcept nogil:
    """Let a thunk take jumps to other addresses to the next thunk, or out of the code cache."""
    patch(k, f.thunk + thunk_miss(k.write + f.thunk),
          k.stubs.at[STUB_INDIRECT] if f.next_thunk == NONE else k.fragments[f.next_thunk].thunk)

cdef inline u64 table_owner(u32 key, u32 space) noexcept nogil:
    return <u64>space << 32 | key

# Make a cache of at most `size` bytes.
cdef u32 cache_size_for(u64 ram_size) noexcept nogil
cdef Cache* cache_create(CpuState* c, u32 size) except NULL
cdef void cache_destroy(CpuState* c)
# The fragment at a linear address that begins at the guest's `rip`, or NONE.
cdef u32 cache_find(Cache* k, u64 linear, u64 rip, u32 key, u32 space) noexcept nogil
# Install a translation; NONE: there is no room (cache_make_room).
cdef u32 cache_install(CpuState* c, Cache* k, Template* t, u32 space, u64 phys0, u64 phys1) noexcept nogil
# Replace the translation of fragment `index`, whose guest bytes have changed.  False: the new one
# does not fit, or differs in more than constants.
cdef bint cache_revise(CpuState* c, Cache* k, u32 index, Template* t) noexcept nogil
cdef void cache_drop(CpuState* c, Cache* k, u32 index) noexcept nogil
# Let a direct jump lead straight to a fragment, if that is what it leads to under its own key.
cdef void cache_link(Cache* k, u32 link, u32 target) noexcept nogil
# Drop everything.  Only the run loop may do this, between two fragments.
cdef void cache_flush(CpuState* c, Cache* k) noexcept nogil
# Make a chunk free, whose fragments nothing leads to.
cdef void chunk_reset(Cache* k, u32 chunk) noexcept nogil
# The number of bytes of code, operations and stubs, also of dropped fragments.
cdef u32 cache_used(Cache* k) noexcept nogil
