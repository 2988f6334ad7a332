"""The interface of kept translations to Python, and their stored form."""
from cpython.bytes cimport PyBytes_AsString, PyBytes_FromStringAndSize
from libc.string cimport memcpy
from ringlet.core.host cimport host_map, host_unmap
from ringlet.core.state cimport u8, u32, u64, i16, i32, BLOCK_SIZE
from ringlet.core.template cimport *
from ringlet.translate.builder cimport (
    MAX_CHECKED, MAX_CODE, MAX_LINKS, MAX_MAP, MAX_OPS, MAX_RELOCS, Span)
from ringlet.translate.kept cimport *
from ringlet.translate.learn_table cimport LearnTables

cdef enum:
    MAX_UNUSED = 8       # drop a record after so many runs without use


cdef inline bint wide(u32 kind) noexcept:
    """Whether a relocated field has 64 bits."""
    return kind in (RELOC_RIP64, RELOC_NRIP64, RELOC_SOURCE, RELOC_FIELD64)


cdef bint sound(Record* r, u32 room) noexcept:
    """Whether the record fits in `room` bytes and its installation accesses nothing outside."""
    cdef u8* start = <u8*>r
    cdef Parts p
    cdef u32 i, total = 0
    cdef PackedReloc* relocs
    cdef PackedLink* links
    cdef Span* exact
    cdef i16* free
    if room < sizeof(Record) or r.size > room or r.at >= 4096 or r.prefix not in (1, 3, 8):
        return False
    p = parts_of(r)
    if (p.size != r.size or r.n_ops > MAX_OPS or r.n_relocs > MAX_RELOCS or r.n_links > MAX_LINKS
            or r.n_map > MAX_MAP or r.code_size > MAX_CODE or r.body >= r.code_size
            or r.n_exact == 0 or r.insns == 0 or r.guest_bytes == 0):
        return False
    exact = <Span*>(start + p.exact)
    for i in range(r.n_exact):
        if not -<i32>r.at <= exact[i].start < exact[i].end <= 4096 - <i32>r.at:
            return False
        if r.checked and not 0 <= exact[i].start < exact[i].end <= MAX_CHECKED:
            return False
        total += <u32>(exact[i].end - exact[i].start)
    free = <i16*>(start + p.free)
    for i in range(r.n_free):
        if not -<i32>r.at <= free[i] <= 4092 - <i32>r.at:
            return False
        if r.checked and not 0 <= free[i] <= MAX_CHECKED - 4:
            return False
    relocs = <PackedReloc*>(start + p.relocs)
    for i in range(r.n_relocs):
        if (relocs[i].kind > RELOC_NRIP32
                or relocs[i].at + 4 > r.code_size
                or (wide(relocs[i].kind)
                    and relocs[i].at + 8 > r.code_size)
                or (relocs[i].kind == RELOC_SOURCE and not r.checked)
                or (relocs[i].kind == RELOC_TABLE
                    and (r.indirect == MISSING or relocs[i].at != r.indirect + 4))
                or (relocs[i].kind == RELOC_STUB and not 0 <= relocs[i].value < STUB_COUNT)
                or (relocs[i].kind == RELOC_STATE and not 0 <= relocs[i].value < BLOCK_SIZE)
                or (relocs[i].kind == RELOC_OP and not 0 <= relocs[i].value < r.n_ops)
                or (relocs[i].kind == RELOC_FIELD
                    and not 0 <= relocs[i].value <= 4092 - <i32>r.at)
                or (relocs[i].kind == RELOC_FIELD64
                    and not 0 <= relocs[i].value >> 16 <= 4092 - <i32>r.at)):
            return False
    links = <PackedLink*>(start + p.links)
    for i in range(r.n_links):
        if links[i].at + 4 > r.code_size or links[i].home >= r.code_size:
            return False
    return total == r.exact_bytes and exact[0].end > exact[0].start


cdef bint first_bytes(Record* r, Parts* p, u8* first) noexcept:
    """Read the first `prefix` bytes of the fragment; False: the record does not hold them."""
    cdef u8* bytes = <u8*>r + p.bytes
    cdef Span* exact = <Span*>(<u8*>r + p.exact)
    cdef u32 i, found = 0
    cdef i32 at
    for i in range(r.n_exact):
        for at in range(r.prefix):
            if exact[i].start <= at < exact[i].end:
                first[at] = bytes[at - exact[i].start]
                found |= 1 << at
        bytes += exact[i].end - exact[i].start
    return found == (1 << r.prefix) - 1


cdef inline bint lasts(Record* r) noexcept:
    """Whether this run or a recent one has used the record."""
    return r.hits != 0 or r.unused < MAX_UNUSED


cdef u32 put(u8* out, Record* r) noexcept:
    """Write the record for the next run, and return its size."""
    memcpy(out, r, r.size)
    (<Record*>out).next = 0
    (<Record*>out).hits = 0
    (<Record*>out).unused = 0 if r.hits else r.unused + 1
    return r.size


cdef class KeptTranslations:
    """The translations that one processor's translator made in this run and in earlier runs.

    `load` and `dump` exchange them, with the shapes of `tables`, as bytes that only the same
    translator can read.
    """

    def __cinit__(self, LearnTables tables):
        self.tables = tables
        self.k.arena = <u8*>host_map(ARENA)
        self.k.buckets = <u32*>host_map(BUCKETS * sizeof(u32))
        if self.k.arena == NULL or self.k.buckets == NULL:
            raise MemoryError("kept translations")
        self.k.used = self.loaded = FIRST

    def __dealloc__(self):
        host_unmap(self.k.arena, ARENA)
        host_unmap(self.k.buckets, BUCKETS * sizeof(u32))

    def load(self, const unsigned char[::1] data):
        """Load the output of `dump`; ValueError if `data` is anything else."""
        cdef u64 size = data.shape[0]
        cdef u64 shapes = (<u64*>&data[0])[0] if size >= 8 else 0
        cdef u32 at
        cdef Record* r
        cdef Parts p
        cdef u8 first[8]
        if self.k.used != FIRST:
            raise ValueError("translations are there already")
        if size < 8 or shapes > size - 8 or size - 8 - shapes > LASTING:
            raise ValueError("no translations")
        self.tables.restore(bytes(data[8:8 + shapes]))
        memcpy(self.k.arena + FIRST, &data[0] + 8 + shapes, size - 8 - shapes)
        at = FIRST
        size = FIRST + size - 8 - shapes
        while at < size:
            r = <Record*>(self.k.arena + at)
            if not sound(r, <u32>(size - at)):
                raise ValueError(f"no translation at offset {at}")
            p = parts_of(r)
            if not first_bytes(r, &p, first):
                raise ValueError(f"a translation without its first bytes at offset {at}")
            kept_enter(&self.k, at, &first[0])
            at += r.size
        self.k.used = self.loaded = <u32>size

    def dump(self) -> bytes:
        """Return translations for `load`, at most LASTING bytes of them.

        New translations may take at most half of that from older ones that are still in use.  So no
        run displaces the translations that other runs need.
        """
        cdef u32 at, used = self.k.used, size = 0, room, old = 0
        cdef bint is_old
        cdef Record* r
        cdef bytes shapes = self.tables.rows()
        cdef bytes data
        cdef u8* out
        at = FIRST
        while at < self.loaded:
            r = <Record*>(self.k.arena + at)
            if lasts(r):
                old += r.size
            at += r.size
        old = min(old, max(LASTING // 2, LASTING - min(LASTING, used - self.loaded)))
        data = PyBytes_FromStringAndSize(NULL, min(LASTING, old + used - self.loaded))
        out = <u8*>PyBytes_AsString(data)
        # Records that this run has used come first.
        for used_now in (True, False):
            at = FIRST
            while at < self.loaded:
                r = <Record*>(self.k.arena + at)
                if lasts(r) and (r.hits != 0) == used_now and size + r.size <= old:
                    size += put(out + size, r)
                at += r.size
        at = self.loaded
        room = <u32>len(data)
        while at < used:
            r = <Record*>(self.k.arena + at)
            if size + r.size <= room:
                size += put(out + size, r)
            at += r.size
        return len(shapes).to_bytes(8, "little") + shapes + data[:size]

    @property
    def emptied(self) -> int:
        """How often the arena was full, so that the latest records were forgotten."""
        return self.k.n_emptied

    @property
    def found(self) -> int:
        """How many fragments were installed without being translated."""
        return self.k.n_found

    @property
    def added(self) -> int:
        """How many translations this run has added."""
        return self.k.n_added
