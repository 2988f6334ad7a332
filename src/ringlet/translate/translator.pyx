"""`Translator`: the pure translator for Python, from bytes and a key to a `Translation`."""
from enum import IntEnum
from typing import NamedTuple

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy
from ringlet.cache.codecache cimport Fragment, LinkRec
from ringlet.core.state cimport *
from ringlet.core.template cimport *
from ringlet.translate.builder cimport Builder, MAX_CHECKED, MAX_INSNS
from ringlet.translate.fragment cimport template_of
from ringlet.translate.kept cimport kept_add, kept_find, may_keep
from ringlet.translate.kept_translations cimport KeptTranslations
from ringlet.translate.learn_table cimport LearnTable, LearnTables
from ringlet.translate.narrow.fragment cimport translate
from ringlet.translate.scan cimport (
    TRANSLATE_CROSS, TRANSLATE_LEARN, TRANSLATE_OK, TRANSLATE_PROTECT)

DEFAULT_KEY = <u32>KEY_MODE64


class Relocation(IntEnum):
    """The value that a field of translated bytes gets when it is installed (core/template.pxd)."""

    STATE = RELOC_STATE
    RIP32 = RELOC_RIP32
    RIP64 = RELOC_RIP64
    NRIP64 = RELOC_NRIP64
    SLOT = RELOC_SLOT
    STUB = RELOC_STUB
    OP = RELOC_OP
    SOURCE = RELOC_SOURCE
    FRAGMENT = RELOC_FRAGMENT
    FIELD = RELOC_FIELD
    FIELD64 = RELOC_FIELD64
    TABLE = RELOC_TABLE
    PREDICTED = RELOC_PREDICTED
    NRIP32 = RELOC_NRIP32


class Stub(IntEnum):
    """The stubs through which a translation leaves (core/template.pxd)."""

    LINK = STUB_LINK
    INDIRECT = STUB_INDIRECT
    OP = STUB_OP
    LEAVE = STUB_LEAVE
    STALE = STUB_STALE


# The tables in the block below 2 GiB, by privilege (supervisor, user): src/ringlet/core/state.pxd.
SLOTS = (BLOCK_SLOTS_K, BLOCK_SLOTS_U)
NEGATED_SLOTS = (BLOCK_NSLOTS_K, BLOCK_NSLOTS_U)
JUMP_TABLE = BLOCK_JUMPS  # the first jump table; the key selects one
PREDICTIONS = range(BLOCK_PREDICTED, BLOCK_PREDICTED + 4 * PREDICTED_COUNT)
TABLE_BYTES = SLOT_COUNT * 8

KEYS = {
    "cpl": <u32>KEY_CPL, "mode64": <u32>KEY_MODE64, "mode32": <u32>KEY_MODE32,
    "mode16": <u32>KEY_MODE16, "segmented": <u32>KEY_SEGMENTED, "stack16": <u32>KEY_STACK16,
    "cs64k": <u32>KEY_CS64K, "cs_odd": <u32>KEY_CS_ODD, "data64k": <u32>KEY_DATA64K,
    "paragraphs": <u32>KEY_PARAGRAPHS, "limited": <u32>KEY_LIMITED, "nm": <u32>KEY_NM,
    "nosse": <u32>KEY_NOSSE, "noavx": <u32>KEY_NOAVX, "step": <u32>KEY_STEP, "em": <u32>KEY_EM,
}

# Address of the state block in `Translation.code`; any address below 2 GiB would do.
BLOCK = 0x40000000

# Address of the guest's bytes in the code of a checked translation.
SOURCE = 0x7E0000000000


def predicted_at(linear: int, value: int) -> int:
    """Return the offset in the block that a relocation `PREDICTED` of a fragment gives."""
    return prediction(<u64>linear, <i64>value)


class Translation(NamedTuple):
    """A fragment's translation as a relocatable template.

    `code` assumes that the state block is at `BLOCK` and the fragment at `linear`; fields of
    stubs, links and operations are 0.  `map` holds (host offset, guest offset), `links` (offset of
    a rel32, linear target), `relocations` (offset, `Relocation`, value), `operations` (guest
    offset, `Op`).  The code out of line begins at `cold`: missed predictions, and the exit of a
    `checked` translation for changed bytes.  Operations resume at the offsets in `resumes`.
    """

    linear: int
    guest_bytes: int
    guest_instructions: int
    code: bytes
    body: int
    map: tuple[tuple[int, int], ...]
    links: tuple[tuple[int, int], ...]
    relocations: tuple[tuple[int, int, int], ...]
    operations: tuple[tuple[int, int], ...]
    key: int
    cold: int
    resumes: tuple[int, ...]
    checked: bool

    @property
    def host_bytes(self) -> int:
        """Size of the translated code in bytes."""
        return len(self.code)


class InPage(NamedTuple):
    """Parts of a `Translation` that `Translator.translate_in` made or found.

    `operations` hold (guest offset, `Op`, the instruction's bytes).
    """

    code: bytes
    map: tuple[tuple[int, int], ...]
    links: tuple[tuple[int, int], ...]
    operations: tuple[tuple[int, int, bytes], ...]


class Sweep(NamedTuple):
    """The result of a `Translator.sweep`.

    `cache_bytes` is the size of the fragments in the code cache: their code and its records.
    """

    fragments: int
    guest_instructions: int
    guest_bytes: int
    host_bytes: int
    cache_bytes: int


cdef class Translator:
    """Translates guest code, and learns the shapes of new instructions."""

    cdef Builder* b
    cdef LearnTables tables
    cdef LearnTable table      # of 64-bit code
    cdef readonly KeptTranslations kept

    def __cinit__(self, speculate=True):
        self.tables = LearnTables()
        self.table = self.tables.all[0]
        self.kept = KeptTranslations(self.tables)
        self.b = <Builder*>calloc(1, sizeof(Builder))
        if self.b == NULL:
            raise MemoryError("translator")
        self.b.shapes = &self.table.t
        self.b.speculate = speculate
        self.b.block = BLOCK

    def __dealloc__(self):
        free(self.b)

    @property
    def shapes(self) -> int:
        """Number of known instruction shapes."""
        return self.tables.count

    cdef LearnTable table_of(self, u32 key):
        return self.tables.all[0 if key & KEY_MODE64 else 1 if key & KEY_MODE32 else 2]

    cdef int run(self, const unsigned char[::1] data, u64 linear, u32 key, u32 limit,
                 bint indirect, bint checked, bint devices) except -1:
        """Translate one fragment at the start of `data`, at most `limit` instructions."""
        cdef int r
        cdef u32 i
        cdef Builder* b = self.b
        cdef u32 size = data.shape[0]
        cdef LearnTable table = self.table_of(key)
        b.shapes = &table.t
        b.has_devices = devices
        for i in range(64):
            b.devices[i] = ~<u64>0
        b.checked = checked
        b.source = <const unsigned char*><u64>SOURCE
        while True:
            b.code = &data[0]
            b.avail = MAX_CHECKED if checked and size > MAX_CHECKED else size
            b.before = 0
            b.limit = limit if 0 < limit < MAX_INSNS else MAX_INSNS
            b.linear = b.rip = linear
            b.key = key
            with nogil:
                r = translate(b, indirect)
            if r == TRANSLATE_LEARN:
                table.learn(bytes(data[b.learn_at:b.learn_at + 15]))
                continue
            if r == TRANSLATE_PROTECT:
                b.checked = checked = False
                limit = 1
                continue
            if r == TRANSLATE_CROSS:
                raise ValueError("the first instruction continues past the given bytes")
            return 0

    def translate(self, const unsigned char[::1] data, u64 linear=0x100000,
                  u32 key=DEFAULT_KEY, u32 limit=0, bint indirect=False,
                  bint checked=False, bint devices=False):
        """Translate the fragment that begins with `data`'s first byte.

        `data` holds guest bytes from linear address `linear`, of which at most one page is used;
        `key` is the processor mode (KEY_*).  A `checked` translation, for a page that is often
        written, compares these bytes on entry (docs/adr/0005).  With `devices`, each MOV to or from
        memory leaves for a device's access (docs/adr/0014).  ValueError if the first instruction is
        incomplete.
        """
        cdef Template t
        cdef u32 i
        if data.shape[0] == 0:
            raise ValueError("no bytes to translate")
        self.run(data, linear, key, limit, indirect, checked, devices)
        t = template_of(self.b)
        return Translation(
            linear, t.guest_bytes, t.insns,
            PyBytes_FromStringAndSize(<char*>t.code, t.size), t.body,
            tuple([(t.map[i].host, t.map[i].guest) for i in range(t.n_map)]),
            tuple([(t.links[i].at, linear + t.links[i].target) for i in range(t.n_links)]),
            tuple([(t.relocs[i].at, t.relocs[i].kind, t.relocs[i].value)
                   for i in range(t.n_relocs)]),
            tuple([(t.ops[i].rip, t.ops[i].op) for i in range(t.n_ops)]),
            key, self.b.tail,
            tuple([t.ops[i].resume for i in range(t.n_ops) if t.ops[i].resume]),
            checked)

    def translate_in(self, const unsigned char[::1] page, u32 at, u64 linear, u32 key=DEFAULT_KEY,
                     bint indirect=False):
        """Translate the code at offset `at` of a page at `linear`, or find it among `kept`.

        ValueError if the first instruction continues in the next page, or if code of this key is
        not kept.
        """
        cdef Template t
        cdef Builder* b = self.b
        cdef int r = TRANSLATE_LEARN
        cdef LearnTable table = self.table_of(key)
        if page.shape[0] != 4096 or at >= 4096 or linear & 0xFFF or not may_keep(key):
            raise ValueError("not a page of code that is kept")
        b.shapes = &table.t
        b.checked = 0
        b.source = NULL
        b.has_devices = 0
        b.noting = 1
        while r == TRANSLATE_LEARN:
            b.code = &page[at]
            b.avail = 4096 - at
            b.before = at
            b.limit = MAX_INSNS
            b.linear = b.rip = linear + at
            b.key = key
            if kept_find(&self.kept.k, b, indirect, &t):
                break
            r = translate(b, indirect)
            if r == TRANSLATE_LEARN:
                table.learn(bytes(page[at + b.learn_at:at + b.learn_at + 15]))
            elif r == TRANSLATE_OK:
                t = template_of(b)
                kept_add(&self.kept.k, b, &t)
        b.noting = 0
        if r == TRANSLATE_CROSS:
            raise ValueError("the first instruction continues past the page")
        self.stand(&t)
        return InPage(
            PyBytes_FromStringAndSize(<char*>t.code, t.size),
            tuple([(t.map[i].host, t.map[i].guest) for i in range(t.n_map)]),
            tuple([(t.links[i].at, b.rip + t.links[i].target) for i in range(t.n_links)]),
            tuple([(t.ops[i].rip, t.ops[i].op, (<char*>t.ops[i].bytes)[:16])
                   for i in range(t.n_ops)]))

    cdef void stand(self, Template* t):
        """Copy the code and fill in the fields that depend on the guest's bytes and address."""
        cdef u32 i
        cdef Reloc* r
        cdef u8* field
        if t.code != self.b.out:
            memcpy(self.b.out, t.code, t.size)
            t.code = self.b.out
        for i in range(t.n_relocs):
            r = &t.relocs[i]
            field = t.code + r.at
            if r.kind == RELOC_RIP32:
                (<u32*>field)[0] = <u32>(t.rip + <u64>r.value)
            elif r.kind == RELOC_RIP64:
                (<u64*>field)[0] = t.rip + <u64>r.value
            elif r.kind == RELOC_NRIP64:
                (<u64*>field)[0] = 0 - (t.rip + <u64>r.value)
            elif r.kind == RELOC_NRIP32:
                (<u32*>field)[0] = <u32>(0 - (t.rip + <u64>r.value))
            elif r.kind == RELOC_FIELD:
                (<u32*>field)[0] = (<u32*>(t.bytes + r.value))[0]
            elif r.kind == RELOC_FIELD64:
                (<u64*>field)[0] = (t.rip + <u64>(r.value & 0xFFFF)
                                    + <u64><i64>(<i32*>(t.bytes + (r.value >> 16)))[0])

    def sweep(self, const unsigned char[::1] text, u64 linear, u32 key=DEFAULT_KEY):
        """Translate all of `text`, page by page, one fragment after another; return a `Sweep`.

        Nothing is kept, so the time is the translator's alone.  Each fragment has an entry for
        indirect jumps.
        """
        cdef Builder* b = self.b
        cdef u64 at = 0, size = text.shape[0], fragments = 0, insns = 0, host = 0, records = 0
        cdef u64 room
        cdef int r
        cdef LearnTable table = self.table_of(key)
        b.shapes = &table.t
        b.checked = b.has_devices = 0
        while at < size:
            room = 4096 - ((linear + at) & 0xFFF)
            b.code = &text[at]
            b.avail = <u32>(room if room < size - at else size - at)
            b.before = <u32>((linear + at) & 0xFFF if (linear + at) & 0xFFF <= at else 0)
            b.limit = MAX_INSNS
            b.linear = b.rip = linear + at
            b.key = key
            r = translate(b, True)
            if r == TRANSLATE_LEARN:
                table.learn(bytes(text[at + b.learn_at:at + b.learn_at + 15]))
                continue
            if r == TRANSLATE_CROSS:
                if at + 16 > size:
                    break
                b.avail = 16
                b.before = 0
                b.limit = 1
                r = translate(b, True)
                if r == TRANSLATE_LEARN:
                    table.learn(bytes(text[at:at + 15]))
                    continue
            fragments += 1
            insns += b.count
            host += b.n
            records += (sizeof(Fragment) + b.n_ops * sizeof(OpInfo) + b.n_map * sizeof(MapEntry)
                        + b.n_links * sizeof(LinkRec))
            at += b.guest_bytes
        return Sweep(fragments, insns, at, host, host + records)
