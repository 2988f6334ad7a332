"""Kept translations: the records and their index."""
from ringlet.core.state cimport KEY_MODE64, u8, u16, u32, u64, i16, i32, i64, OpInfo
from ringlet.core.template cimport *
from ringlet.translate.builder cimport *
from ringlet.translate.insn cimport is_far

cdef enum:
    PROBES = 32          # number of records to try in a bucket

cdef inline u32 bucket_of(u32 at, u32 key, const u8* bytes, u32 prefix) noexcept nogil:
    """Hash the offset in the page, the key and the first `prefix` bytes (1, 3 or 8)."""
    cdef u64 first = bytes[0]
    if prefix == 8:
        first = (<u64*>bytes)[0]
    elif prefix == 3:
        first |= <u64>bytes[1] << 8 | <u64>bytes[2] << 16
    first = (first ^ (<u64>at << 40) ^ (<u64>key << 20) ^ prefix) * <u64>0x9E3779B97F4A7C15
    return <u32>(first >> (64 - BUCKET_BITS))


cdef bint same_bytes(const u8* a, const u8* b, u32 n) noexcept nogil:
    cdef u32 i = 0
    while i + 8 <= n:
        if (<u64*>(a + i))[0] != (<u64*>(b + i))[0]:
            return False
        i += 8
    while i < n:
        if a[i] != b[i]:
            return False
        i += 1
    return True


cdef inline bint fits32(i64 v) noexcept nogil:
    return <i64>(<i32>v) == v


cdef inline bint within_4_gib(i64 eip) noexcept nogil:
    return 0 <= eip <= <i64>0xFFFFFFFF


cdef bint holds(Builder* b, Record* r, Parts* p) noexcept nogil:
    """Whether all dependencies of the record agree with the builder's bytes."""
    cdef u8* start = <u8*>r
    cdef Span* exact = <Span*>(start + p.exact)
    cdef i16* free = <i16*>(start + p.free)
    cdef u8* bytes = start + p.bytes
    cdef u32 i, n
    for i in range(r.n_exact):
        n = <u32>(exact[i].end - exact[i].start)
        if not same_bytes(bytes, b.code + exact[i].start, n):
            return False
        bytes += n
    for i in range(r.n_free):
        if not is_far((<i32*>(b.code + free[i]))[0]):
            return False
    if not r.key & KEY_MODE64:
        return r.near_low > r.near_high or (within_4_gib(<i64>b.rip + r.near_low)
                                            and within_4_gib(<i64>b.rip + r.near_high))
    if r.thunk != MISSING and (r.near_low <= r.near_high) != fits32(<i64>b.rip):
        return False   # the entry for indirect jumps compares an address of the other size
    return r.near_low > r.near_high or (fits32(<i64>b.rip + r.near_low)
                                        and fits32(<i64>b.rip + r.near_high))


cdef Record* search(Kept* k, Builder* b, u32 bucket, bint indirect, Parts* p) noexcept nogil:
    cdef u32 at = k.buckets[bucket], tries = 0
    cdef Record* r
    while at and tries < PROBES:
        r = <Record*>(k.arena + at)
        if (r.key == b.key and r.at == b.linear & 0xFFF and r.checked == b.checked
                and not (indirect and r.thunk == MISSING)):
            p[0] = parts_of(r)
            if holds(b, r, p):
                return r
        at = r.next
        tries += 1
    return NULL


cdef bint kept_find(Kept* k, Builder* b, bint indirect, Template* t) noexcept nogil:
    cdef Record* r = NULL
    cdef Parts p
    cdef u32 i
    cdef PackedReloc* relocs
    cdef PackedLink* links
    cdef u8* start
    cdef u32 at = b.linear & 0xFFF
    if b.avail >= 8:
        r = search(k, b, bucket_of(at, b.key, b.code, 8), indirect, &p)
    if r == NULL and b.avail >= 3:
        r = search(k, b, bucket_of(at, b.key, b.code, 3), indirect, &p)
    if r == NULL:
        r = search(k, b, bucket_of(at, b.key, b.code, 1), indirect, &p)
    if r == NULL:
        return False
    r.hits = 1
    k.n_found += 1
    start = <u8*>r
    t.linear = b.linear
    t.rip = b.rip
    t.key = r.key
    t.guest_bytes = r.guest_bytes
    t.insns = r.insns
    t.thunk = <u32>0xFFFFFFFF if r.thunk == MISSING else <u32>r.thunk
    t.body = r.body
    t.indirect = <u32>0xFFFFFFFF if r.indirect == MISSING else <u32>r.indirect
    t.size = r.code_size
    t.n_relocs = r.n_relocs
    t.n_map = r.n_map
    t.n_links = r.n_links
    t.n_ops = r.n_ops
    t.code = start + p.code
    t.source = b.source
    t.bytes = b.code
    t.map = <MapEntry*>(start + p.map)
    t.ops = <OpInfo*>(start + sizeof(Record))
    relocs = <PackedReloc*>(start + p.relocs)
    for i in range(t.n_relocs):
        b.relocs[i].at = relocs[i].at
        b.relocs[i].kind = relocs[i].kind
        b.relocs[i].value = relocs[i].value
    t.relocs = b.relocs
    links = <PackedLink*>(start + p.links)
    for i in range(t.n_links):
        b.links[i].at = links[i].at
        b.links[i].home = links[i].home
        b.links[i].conditional = links[i].conditional
        b.links[i].target = links[i].target
    t.links = b.links
    return True


cdef inline u32 prefix_of(Builder* b) noexcept nogil:
    """Return how many first bytes are equal wherever the record can be used: 8, 3 or 1."""
    cdef u32 i, known = 0
    for i in range(b.n_exact):
        while b.exact[i].start <= <i32>known < b.exact[i].end and known < 8:
            known += 1
    return 8 if known >= 8 else 3 if known >= 3 else 1


cdef void kept_enter(Kept* k, u32 at, const u8* bytes) noexcept nogil:
    """Put the record at arena offset `at` into its bucket; `bytes` are the first guest bytes."""
    cdef Record* r = <Record*>(k.arena + at)
    cdef u32* bucket = &k.buckets[bucket_of(r.at, r.key, bytes, r.prefix)]
    r.next = bucket[0]
    bucket[0] = at


cdef void make_room(Kept* k) noexcept nogil:
    """Forget the records beyond those that last; the latest come first in each bucket."""
    cdef u32 i
    for i in range(BUCKETS):
        while k.buckets[i] >= k.lasting:
            k.buckets[i] = (<Record*>(k.arena + k.buckets[i])).next
    k.used = k.lasting
    k.n_emptied += 1


cdef inline void cover(Record* r, i32 low, i32 high) noexcept nogil:
    if low < r.near_low:
        r.near_low = low
    if high > r.near_high:
        r.near_high = high


cdef void distances(Record* r, Template* t) noexcept nogil:
    """Find the distances from RIP that must lead to 32 bits.

    In 64-bit code these are of RELOC_RIP32, which is sign-extended.  In 32-bit code they are of
    links: where EIP would wrap around, a fragment goes on otherwise.
    """
    cdef u32 i
    cdef i32 value
    r.near_low = 0x7FFFFFFF
    r.near_high = -0x7FFFFFFF
    if not t.key & KEY_MODE64:
        for i in range(t.n_links):
            cover(r, <i32>t.links[i].target, <i32>t.links[i].target)
        return
    for i in range(t.n_relocs):
        value = <i32>t.relocs[i].value
        if t.relocs[i].kind == RELOC_RIP32:
            cover(r, value, value)
        elif t.relocs[i].kind == RELOC_NRIP32:
            # The negative of the least 32-bit value does not fit.
            cover(r, value - 1, value)


cdef void kept_add(Kept* k, Builder* b, Template* t) noexcept nogil:
    cdef Record* r = <Record*>(k.arena + k.used)
    cdef Parts p
    cdef u32 i, j, n
    cdef PackedReloc* relocs
    cdef PackedLink* links
    cdef u8* start = <u8*>r
    cdef u8* q
    if b.overflowed:
        return
    if k.used + sizeof(Record) + (1 << 17) > ARENA:
        make_room(k)
        r = <Record*>(k.arena + k.used)
        start = <u8*>r
    r.exact_bytes = 0
    for i in range(b.n_exact):
        r.exact_bytes += <u16>(b.exact[i].end - b.exact[i].start)
    r.n_exact = <u16>b.n_exact
    r.n_free = <u16>b.n_free
    r.n_relocs = <u16>t.n_relocs
    r.n_map = <u16>t.n_map
    r.n_links = <u16>t.n_links
    r.n_ops = <u16>t.n_ops
    r.code_size = <u16>t.size
    p = parts_of(r)
    relocs = <PackedReloc*>(start + p.relocs)
    for i in range(t.n_relocs):
        if not fits32(t.relocs[i].value):
            return
        relocs[i].at = <u16>t.relocs[i].at
        relocs[i].kind = <u16>t.relocs[i].kind
        relocs[i].value = <i32>t.relocs[i].value
    links = <PackedLink*>(start + p.links)
    for i in range(t.n_links):
        if not fits32(t.links[i].target):
            return
        links[i].at = <u16>t.links[i].at
        links[i].home = <u16>t.links[i].home
        links[i].conditional = t.links[i].conditional
        links[i].target = <i32>t.links[i].target
    for i in range(t.n_map):
        (<MapEntry*>(start + p.map))[i] = t.map[i]
    for i in range(t.n_ops * <u32>(sizeof(OpInfo) >> 3)):
        (<u64*>(start + sizeof(Record)))[i] = (<u64*>t.ops)[i]
    q = start + p.bytes
    for i in range(b.n_exact):
        (<Span*>(start + p.exact))[i] = b.exact[i]
        n = <u32>(b.exact[i].end - b.exact[i].start)
        for j in range(n):
            q[j] = b.code[b.exact[i].start + <i32>j]
        q += n
    for i in range(b.n_free):
        (<i16*>(start + p.free))[i] = b.free[i]
    for i in range((t.size + 7) >> 3):
        (<u64*>(start + p.code))[i] = (<u64*>t.code)[i]
    r.size = p.size
    r.key = t.key
    distances(r, t)
    r.hits = 1
    r.unused = 0
    r.at = <u16>(b.linear & 0xFFF)
    r.prefix = <u16>prefix_of(b)
    r.guest_bytes = <u16>t.guest_bytes
    r.insns = <u16>t.insns
    # The value for "none" has all bits set, so it becomes MISSING.
    r.thunk = <u16>t.thunk
    r.body = <u16>t.body
    r.indirect = <u16>t.indirect
    r.checked = <u16>b.checked
    kept_enter(k, k.used, b.code)
    k.used += p.size
    k.n_added += 1
    if k.lasting == 0 and k.used > LASTING:
        k.lasting = k.used
