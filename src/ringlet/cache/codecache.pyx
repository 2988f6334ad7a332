"""The code cache.

One memfd, mapped twice: writable for the installer, executable (below 2 GiB) to run.  Fragments are
allocated upwards and found by (address space, linear address, key); they are dropped by guest
physical page (their bytes changed) or by linear page (their mapping changed).

The cache consists of chunks, which are filled one after the other.  When the last is full, the
oldest is emptied, while no fragment runs; until then it keeps the memory of its dropped fragments.
Memory that was never used costs nothing.

What runs seldom is allocated downwards from a chunk's end: a stub for each link, through which it
leaves until it is patched, and the operations.  It would take the place of other fragments in the
host's instruction caches.
"""
from libc.errno cimport errno
from libc.stdlib cimport calloc, free
from libc.string cimport strerror
from ringlet.core.state cimport *
from ringlet.core.template cimport *
from ringlet.core.stubs cimport emit_stubs
from ringlet.cache.jumps cimport (
    jumps_assign, jumps_create, jumps_destroy, jumps_find, jumps_leave, jumps_release_all,
    jumps_unused)

cdef extern from * nogil:
    """
    #include <sys/mman.h>
    #include <unistd.h>

    /* Give the size for which there was room below 2 GiB, or 0. */
    static unsigned ringlet_cache_map(unsigned size, unsigned least, void **write, void **run,
                                      int *fd)
    {
        *fd = memfd_create("ringlet-code", MFD_CLOEXEC);
        if (*fd < 0)
            return 0;
        while ((*run = mmap(NULL, size, PROT_READ | PROT_EXEC, MAP_SHARED | MAP_32BIT, *fd, 0))
               == MAP_FAILED && size > least)
            size /= 2;
        if (*run == MAP_FAILED)
            return 0;
        if (!ftruncate(*fd, size)) {
            *write = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, *fd, 0);
            if (*write != MAP_FAILED)
                return size;
        }
        munmap(*run, size);
        *run = *write = NULL;
        return 0;
    }
    static void *ringlet_table(unsigned long size)
    {
        void *p = mmap(NULL, size, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        return p == MAP_FAILED ? NULL : p;
    }
    static void ringlet_unmap(void *p, unsigned long size) { if (p) munmap(p, size); }
    static void ringlet_close(int fd) { if (fd >= 0) close(fd); }
    """
    u32 ringlet_cache_map(u32 size, u32 least, void** write, void** run, int* fd)
    void* ringlet_table(unsigned long size)
    void ringlet_unmap(void* p, unsigned long size)
    void ringlet_close(int fd)


cdef CpuState* _null = NULL
cdef u32 EXIT_ARG = <u32><size_t>&_null.exit_arg

cdef enum:
    LINK_STUB = 16           # bytes


cdef inline u32 hash_of(u64 linear, u32 key, u32 space) noexcept nogil:
    cdef u64 h = (linear ^ (<u64>key << 20) ^ (<u64>space << 40)) * <u64>0x9E3779B97F4A7C15
    return <u32>(h >> (64 - HASH_BITS))


cdef inline u64 host_of(Cache* k, u32 offset) noexcept nogil:
    return <u64>k.run + offset


cdef enum:
    CODE_CACHE = 128 << 20   # bytes, in guests with much RAM; in others it
    CODE_CACHE_SHARE = 8     # is one byte for so many of RAM


cdef u32 cache_size_for(u64 ram_size) noexcept nogil:
    """Return the size in bytes of the code cache of a guest with so much RAM."""
    cdef u32 size = CODE_CACHE
    while size > CHUNKS_MIN * CHUNK_BYTES and size > ram_size // CODE_CACHE_SHARE:
        size //= 2
    return size


cdef Cache* cache_create(CpuState* c, u32 size) except NULL:
    """Make a cache for the virtual processor `c`, with its stubs."""
    cdef Cache* k = <Cache*>calloc(1, sizeof(Cache))
    cdef u32 i
    if k == NULL:
        raise MemoryError("code cache")
    k.fd = -1
    c.cache = k
    k.size = ringlet_cache_map(size, CHUNKS_MIN * CHUNK_BYTES, <void**>&k.write, <void**>&k.run,
                               &k.fd)
    if not k.size:
        raise OSError(errno, f"cannot map the code cache below 2 GiB: {strerror(errno).decode()}")
    k.n_chunks = k.size // CHUNK_BYTES
    k.fragments = <Fragment*>ringlet_table(k.n_chunks * CHUNK_FRAGMENTS * sizeof(Fragment))
    k.links = <LinkRec*>ringlet_table(k.n_chunks * CHUNK_LINKS * sizeof(LinkRec))
    k.map = <MapEntry*>ringlet_table(k.n_chunks * CHUNK_MAP * sizeof(MapEntry))
    k.hash = <u32*>ringlet_table(HASH_SIZE * 4)
    k.linear_hash = <u32*>ringlet_table(PAGE_HASH_SIZE * 4)
    k.phys_hash = <u32*>ringlet_table(PAGE_HASH_SIZE * 4)
    if (k.fragments == NULL or k.links == NULL or k.map == NULL or k.hash == NULL
            or k.linear_hash == NULL or k.phys_hash == NULL):
        raise MemoryError("code cache tables")
    k.stubs = emit_stubs(k.write, c.block)
    for i in range(STUB_COUNT):
        c.stub[i] = host_of(k, k.stubs.at[i])
    k.first = (k.stubs.size + 63) & ~<u32>63
    jumps_create(c, k)
    cache_flush(c, k)
    c.n_flushes = 0
    return k


cdef void cache_destroy(CpuState* c):
    cdef Cache* k = <Cache*>c.cache
    if k == NULL:
        return
    ringlet_unmap(k.write, k.size)
    ringlet_unmap(k.run, k.size)
    ringlet_close(k.fd)
    ringlet_unmap(k.fragments, k.n_chunks * CHUNK_FRAGMENTS * sizeof(Fragment))
    ringlet_unmap(k.links, k.n_chunks * CHUNK_LINKS * sizeof(LinkRec))
    ringlet_unmap(k.map, k.n_chunks * CHUNK_MAP * sizeof(MapEntry))
    ringlet_unmap(k.hash, HASH_SIZE * 4)
    ringlet_unmap(k.linear_hash, PAGE_HASH_SIZE * 4)
    ringlet_unmap(k.phys_hash, PAGE_HASH_SIZE * 4)
    jumps_destroy(k)
    free(k)
    c.cache = NULL


cdef void chunk_reset(Cache* k, u32 chunk) noexcept nogil:
    cdef Chunk* h = &k.chunks[chunk]
    h.used = chunk * CHUNK_BYTES if chunk else k.first
    h.cold = (chunk + 1) * CHUNK_BYTES
    h.n_fragments = chunk * CHUNK_FRAGMENTS
    h.n_links = chunk * CHUNK_LINKS
    h.n_map = chunk * CHUNK_MAP


cdef void cache_flush(CpuState* c, Cache* k) noexcept nogil:
    cdef u32 i
    for i in range(HASH_SIZE):
        k.hash[i] = NONE
    for i in range(PAGE_HASH_SIZE):
        k.linear_hash[i] = NONE
        k.phys_hash[i] = NONE
    for i in range(k.n_chunks):
        chunk_reset(k, i)
    k.filling = 0
    k.live = 0
    k.n_hot = 0
    k.cut = NONE
    k.generation += 1
    k.drops += 1
    c.n_flushes += 1
    jumps_release_all(k)


cdef u32 cache_find(Cache* k, u64 linear, u64 rip, u32 key, u32 space) noexcept nogil:
    cdef u32 i = k.hash[hash_of(linear, key, space)]
    cdef Fragment* f
    while i != NONE:
        f = &k.fragments[i]
        if f.linear == linear and f.rip == rip and f.key == key and f.space == space:
            return i
        i = f.next_hash
    return NONE


cdef u32 table_for(CpuState* c, Cache* k, u32 key, u32 space) noexcept nogil:
    """Return the number of the jump table of a key in an address space.

    If fragments lead through all of them, they are dropped for one.
    """
    cdef u32 table = jumps_find(k, key, space), i
    if table != NONE:
        return table
    table = jumps_unused(k)
    if table == NONE:
        table = k.next_table
        if k.tables[table].at == NULL:
            table = 0
        k.next_table = (table + 1) % JUMP_TABLES
        i = fragment_after(k, NONE)
        while i != NONE:
            if k.fragments[i].table == 1 + table:
                cache_drop(c, k, i)
            i = fragment_after(k, i)
        c.n_jump_tables += 1
    jumps_assign(c, k, table, key, space)
    return table


cdef void write_link_stub(CpuState* c, Cache* k, u32 at, u32 link) noexcept nogil:
    """Write the stub of a link to cache offset `at`."""
    cdef u8* p = k.write + at
    (<u32*>p)[0] = 0x2504C7                       # mov dword [exit_arg], link
    (<u32*>(p + 3))[0] = <u32>(c.block + EXIT_ARG)
    (<u32*>(p + 7))[0] = link
    p[11] = 0xE9                                  # jmp stub
    patch(k, at + 12, k.stubs.at[STUB_LINK])


cdef void write_code(CpuState* c, Cache* k, Template* t, u32 host, u32 ops,
                     u32 index) noexcept nogil:
    """Write the translation's bytes to cache offset `host` and its operations to `ops`."""
    cdef u32 i, h, at
    cdef u8* p = k.write + host
    cdef Reloc* r
    cdef u64 v
    cdef OpInfo* o
    for i in range((t.size + 7) >> 3):
        (<u64*>p)[i] = (<u64*>t.code)[i]
    for i in range(t.n_relocs):
        r = &t.relocs[i]
        at = r.at
        if r.kind == RELOC_STATE:
            (<u32*>(p + at))[0] = <u32>(c.block + <u64>r.value)
        elif r.kind == RELOC_TABLE:
            (<u32*>(p + at))[0] = <u32><u64>k.tables[k.fragments[index].table - 1].at
        elif r.kind == RELOC_RIP32:
            (<u32*>(p + at))[0] = <u32>(t.rip + <u64>r.value)
        elif r.kind == RELOC_RIP64:
            (<u64*>(p + at))[0] = t.rip + <u64>r.value
        elif r.kind == RELOC_NRIP64:
            (<u64*>(p + at))[0] = 0 - (t.rip + <u64>r.value)
        elif r.kind == RELOC_NRIP32:
            (<u32*>(p + at))[0] = <u32>(0 - (t.rip + <u64>r.value))
        elif r.kind == RELOC_SLOT:
            v = BLOCK_SLOTS_U if (t.key & KEY_CPL) == 3 else BLOCK_SLOTS_K
            v += (((t.rip + <u64>r.value) >> SLOT_SHIFT) & 0xFFFF) * 8
            (<u32*>(p + at))[0] = <u32>(c.block + v)
        elif r.kind == RELOC_STUB:
            (<u32*>(p + at))[0] = k.stubs.at[r.value] - (host + at + 4)
        elif r.kind == RELOC_OP:
            (<u32*>(p + at))[0] = <u32>host_of(k, ops + <u32>r.value * <u32>sizeof(OpInfo))
        elif r.kind == RELOC_SOURCE:
            (<u64*>(p + at))[0] = <u64>t.source + <u64>r.value
        elif r.kind == RELOC_FIELD:
            (<u32*>(p + at))[0] = (<u32*>(t.bytes + r.value))[0]
        elif r.kind == RELOC_FIELD64:
            v = t.rip + <u64>(r.value & 0xFFFF)
            (<u64*>(p + at))[0] = v + <u64><i64>(<i32*>(t.bytes + (r.value >> 16)))[0]
        elif r.kind == RELOC_PREDICTED:
            (<u32*>(p + at))[0] = <u32>(c.block + prediction(t.linear, r.value))
        else:
            (<u32*>(p + at))[0] = index
    for i in range(t.n_ops):
        o = <OpInfo*>(k.write + ops) + i
        for h in range(sizeof(OpInfo) >> 3):
            (<u64*>o)[h] = (<u64*>&t.ops[i])[h]
        o.rip += t.rip
        if o.resume:
            o.resume = host_of(k, host + <u32>o.resume)


cdef u32 cache_install(CpuState* c, Cache* k, Template* t, u32 space, u64 phys0,
        u64 phys1) noexcept nogil:
    cdef Chunk* chunk = &k.chunks[k.filling]
    cdef u32 index = chunk.n_fragments, i, h, ops, host
    cdef u32 cold = t.n_links * LINK_STUB + t.n_ops * <u32>sizeof(OpInfo)
    cdef Fragment* f
    cdef LinkRec* l
    if (chunk.used + t.size + cold + 64 > chunk.cold
            or index >= (k.filling + 1) * CHUNK_FRAGMENTS
            or chunk.n_links + t.n_links > (k.filling + 1) * CHUNK_LINKS
            or chunk.n_map + t.n_map > (k.filling + 1) * CHUNK_MAP):
        return NONE
    host = (chunk.used + 15) & ~<u32>15
    chunk.cold -= cold
    ops = chunk.cold + t.n_links * LINK_STUB
    f = &k.fragments[index]
    f.table = 0 if t.indirect == NONE else 1 + table_for(c, k, t.key, space)
    if f.table:
        k.tables[f.table - 1].users += 1
    write_code(c, k, t, host, ops, index)
    f.linear = t.linear
    f.rip = t.rip
    f.phys[0] = phys0
    f.phys[1] = phys1
    f.key = t.key
    f.space = space
    f.host = host
    f.size = t.size
    f.thunk = 0 if t.thunk == NONE else host + t.thunk
    f.next_thunk = f.prev_thunk = NONE
    f.body = host + t.body
    f.indirect = NONE if t.indirect == NONE else host + t.indirect
    f.map = chunk.n_map
    f.n_map = t.n_map
    f.links = chunk.n_links
    f.n_links = t.n_links
    f.ops = ops
    f.n_ops = t.n_ops
    f.in_links = NONE
    f.guest_bytes = <u16>t.guest_bytes
    f.insns = <u16>t.insns
    f.dead = 0
    f.asked = 0
    for i in range(t.n_map):
        k.map[chunk.n_map + i] = t.map[i]
    for i in range(t.n_links):
        l = &k.links[chunk.n_links + i]
        l.target = t.rip + <u64>t.links[i].target
        l.at = host + t.links[i].at
        l.stub = chunk.cold + i * LINK_STUB
        write_link_stub(c, k, l.stub, chunk.n_links + i)
        l.home = host + t.links[i].home if t.links[i].home else l.stub
        patch(k, l.at, l.home)
        l.source = index
        l.linked = NONE
        l.next_in = NONE
    chunk.n_map += t.n_map
    chunk.n_links += t.n_links
    chunk.n_fragments += 1
    k.live += 1
    chunk.used = host + t.size
    h = hash_of(f.linear, f.key, space)
    f.next_hash = k.hash[h]
    k.hash[h] = index
    h = page_hash(f.linear >> 12)
    f.next_linear = k.linear_hash[h]
    k.linear_hash[h] = index
    h = page_hash(phys0 >> 12)
    f.next_phys[0] = k.phys_hash[h]
    k.phys_hash[h] = index * 2
    f.next_phys[1] = NONE
    if phys1 != phys0:
        h = page_hash(phys1 >> 12)
        f.next_phys[1] = k.phys_hash[h]
        k.phys_hash[h] = index * 2 + 1
    c.n_code_bytes += t.size + cold
    return index


cdef void cache_link(Cache* k, u32 link, u32 target) noexcept nogil:
    """Let a direct jump lead to a fragment.  What happened since the jump was left may have changed
    RIP or the key, so the fragment must be the jump's own target, of its key and space."""
    cdef LinkRec* l = &k.links[link]
    cdef Fragment* f = &k.fragments[target]
    cdef Fragment* source = &k.fragments[l.source]
    if (l.linked != NONE or l.home != l.stub or source.dead or f.dead or l.target != f.rip
            or source.key != f.key or source.space != f.space):
        return
    patch(k, l.at, f.body)
    l.linked = target
    l.next_in = f.in_links
    f.in_links = link


cdef void unlink_from(Cache* k, u32 link) noexcept nogil:
    """Take a patched link of a dropped fragment out of its target's list."""
    cdef LinkRec* l = &k.links[link]
    cdef u32* p
    if l.linked == NONE:
        return
    p = &k.fragments[l.linked].in_links
    while p[0] != NONE:
        if p[0] == link:
            p[0] = l.next_in
            break
        p = &k.links[p[0]].next_in
    patch(k, l.at, l.stub)
    l.linked = NONE


cdef void cache_drop(CpuState* c, Cache* k, u32 index) noexcept nogil:
    """Drop a fragment: nothing leads to it afterwards.  Its chunk keeps its memory."""
    cdef Fragment* f = &k.fragments[index]
    cdef u32 i, following
    cdef u32* p
    if f.dead:
        return
    f.dead = 1
    k.drops += 1
    k.live -= 1
    p = &k.hash[hash_of(f.linear, f.key, f.space)]
    while p[0] != NONE:
        if p[0] == index:
            p[0] = f.next_hash
            break
        p = &k.fragments[p[0]].next_hash
    i = f.in_links
    while i != NONE:
        following = k.links[i].next_in
        patch(k, k.links[i].at, k.links[i].stub)
        k.links[i].linked = NONE
        k.links[i].next_in = NONE
        i = following
    f.in_links = NONE
    for i in range(f.n_links):
        unlink_from(k, f.links + i)
    jumps_leave(c, k, index)
    if f.table:
        k.tables[f.table - 1].users -= 1


cdef bint cache_revise(CpuState* c, Cache* k, u32 index, Template* t) noexcept nogil:
    """Replace a fragment's code.  Links from and to it, and its entry for indirect jumps, stay."""
    cdef Fragment* f = &k.fragments[index]
    cdef u32 i
    cdef LinkRec* l
    if (t.size != f.size or t.n_map != f.n_map or t.n_links != f.n_links or t.n_ops != f.n_ops
            or f.host + t.body != f.body
            or f.indirect != (NONE if t.indirect == NONE else f.host + t.indirect)
            or f.thunk != (0 if t.thunk == NONE else f.host + t.thunk)
            or f.dead):
        return False
    for i in range(t.n_links):
        l = &k.links[f.links + i]
        if (l.target != t.rip + <u64>t.links[i].target or l.at != f.host + t.links[i].at
                or l.home != (f.host + t.links[i].home if t.links[i].home else l.stub)):
            return False
    write_code(c, k, t, f.host, f.ops, index)
    for i in range(t.n_links):
        lead(k, &k.links[f.links + i])
    if f.thunk:
        lead_thunk(k, f)
    for i in range(t.n_map):
        k.map[f.map + i] = t.map[i]
    f.guest_bytes = <u16>t.guest_bytes
    f.insns = <u16>t.insns
    return True


cdef u32 cache_used(Cache* k) noexcept nogil:
    """Return the number of bytes of code, operations and stubs, also of dropped fragments."""
    cdef u32 i, used = 0
    for i in range(k.n_chunks):
        used += CHUNK_BYTES - (k.chunks[i].cold - k.chunks[i].used)
    return used
