"""Fragments for the run loop: translation at RIP, retranslation, and invalidation."""
from ringlet.core.host cimport host_ticks
from ringlet.core.state cimport *
from ringlet.core.template cimport Template
from ringlet.cache.codecache cimport *
from ringlet.cache.invalidation cimport (
    cache_count_write, cache_drop_linear, cache_drop_phys, cache_drop_space, cache_is_hot,
    cache_make_room)
from ringlet.mmu.mmu cimport mmu_fetch, mmu_protect_code, ram_host
from ringlet.translate.builder cimport Builder, MAX_CHECKED, MAX_INSNS
from ringlet.translate.device cimport DeviceMove, device_move
from ringlet.translate.fragment cimport template_of
from ringlet.translate.insn cimport DECODE_LEARN, DECODE_OK, Insn, decode, shapes_of
from ringlet.translate.kept cimport Kept, kept_add, kept_find, may_keep
from ringlet.translate.narrow.fragment cimport translate
from ringlet.translate.scan cimport (
    TRANSLATE_CROSS, TRANSLATE_LEARN, TRANSLATE_OK, TRANSLATE_PROTECT)
from ringlet.vcpu.debug.stops cimport debug_room
from ringlet.vcpu.loop.faults cimport guest_bytes
from ringlet.vcpu.system.sites cimport site_met, sites_of


cdef void code_unmapped(CpuState* c, u64 linear, u64 pages) noexcept nogil:
    cache_drop_linear(c, <Cache*>c.cache, linear, pages)


cdef void code_written(CpuState* c, u64 phys_page) noexcept nogil:
    c.n_smc += 1
    cache_count_write(<Cache*>c.cache, phys_page, host_ticks())
    cache_drop_phys(c, <Cache*>c.cache, phys_page)


cdef void space_dropped(CpuState* c, u32 space) noexcept nogil:
    cache_drop_space(c, <Cache*>c.cache, space)


cdef void read_page(CpuState* c, Builder* b, u8* page, u64 phys, u32 at) noexcept nogil:
    """Copy a page for a fragment that begins at `at`; its writes drop the fragment.

    Only the copy is decoded and translated.  A device's thread may write the page at any time, and
    what is read twice must be the same.
    """
    cdef const volatile u64* words = <const volatile u64*>page
    cdef u32 i
    # Protect the page before its bytes are read, so that no later write is missed.
    mmu_protect_code(c, phys)
    for i in range(512):
        b.page[i] = words[i]
    b.code = <u8*>&b.page[0] + at
    b.avail = 4096 - at
    b.before = at
    b.checked = 0


cdef void read_checked(Builder* b, u8* source, u32 room) noexcept nogil:
    """Copy the guest's bytes for a fragment that compares them with the copy on entry."""
    cdef u32 i
    b.checked = 1
    b.once = 0
    b.source = source
    b.code = &b.copy[0]
    b.avail = room if room < MAX_CHECKED else MAX_CHECKED
    b.before = 0
    for i in range(b.avail):
        b.copy[i] = source[i]


cdef int read_crossing(CpuState* c, Builder* b, u8* page, u64 phys, u64* second) noexcept nogil:
    """Give the builder an instruction that crosses a page boundary: FOUND, RAISED or LEAVE_LOOP.

    The second page's physical address is returned in `second`.  Both pages are write-protected even
    if they are hot, because a fragment can compare the bytes of one page only.
    """
    cdef u32 at = b.linear & 0xFFF, room = 4096 - at, i
    cdef u64 next = (b.linear | 0xFFF) + 1
    cdef int r
    if not b.key & KEY_MODE64:
        next = <u32>next
    b.checked = b.once = b.noting = 0
    mmu_protect_code(c, phys)
    r = mmu_fetch(c, next, second)
    if r == MEM_FAULT:
        return RAISED
    second[0] &= ~<u64>0xFFF
    if r != MEM_OK or ram_host(c, second[0]) == NULL:
        c.exit_kind = EXIT_NO_RAM
        return LEAVE_LOOP
    mmu_protect_code(c, second[0])
    for i in range(16):
        b.crossing[i] = page[at + i] if i < room else ram_host(c, second[0])[i - room]
    b.code = &b.crossing[0]
    b.avail = 16
    b.before = 0
    b.limit = 1
    return FOUND


cdef bint has_site(Builder* b, Template* t) noexcept nogil:
    """Whether a kept translation is of an instruction that has met a device since."""
    cdef u32 at = b.linear & 0xFFF, end = at + t.guest_bytes
    while at < end and at < 4096:
        if b.devices[at >> 6] >> (at & 63) & 1:
            return True
        at += 1
    return False


cdef void keep_to_limit(CpuState* c, Builder* b) noexcept nogil:
    """Shorten the bytes to those in CS, in which RIP is.

    An instruction that passes the limit then seems to go on in the next page (`crosses_limit`).
    """
    cdef u64 left
    if b.key & (KEY_CS64K | KEY_CS_ODD):
        left = <u64>c.arch.seg[SEG_CS].limit - b.rip + 1
        if left < b.avail:
            b.avail = <u32>left


cdef bint crosses_limit(CpuState* c, Builder* b) noexcept nogil:
    """Whether the instruction that does not end in this page may pass the limit of CS.

    None is longer than 15 bytes, and the last ones of a segment are seldom code.
    """
    return (b.key & (KEY_CS64K | KEY_CS_ODD) != 0
            and <u64>c.arch.seg[SEG_CS].limit - b.rip <= 4095 - (b.linear & 0xFFF))


cdef int make_fragment(CpuState* c, Builder* b, u32 key, u32 space, bint indirect,
                       u32* out) noexcept nogil:
    """Translate at RIP: FOUND, RAISED or LEAVE_LOOP; FOUND puts the fragment's index in out[0]."""
    cdef Cache* k = <Cache*>c.cache
    cdef u64 phys = 0, second
    cdef u8* page
    cdef u64 linear = code_linear(c, c.arch.rip)
    cdef u32 at = linear & 0xFFF
    cdef Kept* kept = <Kept*>c.kept
    cdef Template t
    cdef bint known = False
    cdef int r
    if key & (KEY_CS64K | KEY_CS_ODD) and c.arch.rip > c.arch.seg[SEG_CS].limit:
        # This has priority over the exceptions of the page (SDM 3A 6.9).
        raise_err(c, VEC_GP, 0)
        return RAISED
    r = mmu_fetch(c, linear, &phys)
    if r == MEM_FAULT:
        return RAISED
    phys &= ~<u64>0xFFF
    second = phys
    page = ram_host(c, phys)
    if r != MEM_OK or page == NULL:
        c.exit_kind = EXIT_NO_RAM
        return LEAVE_LOOP
    b.shapes = shapes_of(c, key)
    b.linear = linear
    b.rip = c.arch.rip
    b.key = key
    b.block = c.block
    b.limit = MAX_INSNS
    b.room = debug_room(c, linear)
    b.watched = c.blocks != NULL
    if cache_is_hot(k, phys):
        read_checked(b, page + at, 4096 - at)
    else:
        read_page(c, b, page, phys, at)
        b.once = 0
    b.has_devices = sites_of(c, linear, b.devices)
    b.noting = kept != NULL and not b.room and not key & KEY_STEP and may_keep(key) \
        and (key & KEY_MODE64 != 0 or not b.watched)
    keep_to_limit(c, b)
    if b.noting and kept_find(kept, b, indirect, &t) and not (b.has_devices and has_site(b, &t)):
        known = True
        r = TRANSLATE_OK
    else:
        r = translate(b, indirect)
    if r == TRANSLATE_PROTECT:
        b.noting = 0
        b.limit = 1
        if (c.arch.gpr[RDI] ^ linear) >> 12 == 0:
            # The instruction stores to its own page: under protection each store would fault.
            b.once = 1
        else:
            read_page(c, b, page, phys, at)
        r = translate(b, indirect)
    if r == TRANSLATE_CROSS and crosses_limit(c, b):
        raise_err(c, VEC_GP, 0)
        return RAISED
    if r == TRANSLATE_CROSS:
        r = read_crossing(c, b, page, phys, &second)
        if r != FOUND:
            return r
        keep_to_limit(c, b)
        r = translate(b, indirect)
    if r == TRANSLATE_CROSS:
        # It passes the limit of CS.
        raise_err(c, VEC_GP, 0)
        return RAISED
    if r == TRANSLATE_LEARN:
        c.exit_kind = EXIT_LEARN
        return LEAVE_LOOP
    if known:
        c.n_kept += 1
    else:
        t = template_of(b)
        c.n_fragments += 1
        c.n_guest_insns += t.insns
        c.n_guest_bytes += t.guest_bytes
        if b.noting and not b.met_devices:
            kept_add(kept, b, &t)
    out[0] = cache_install(c, k, &t, space, phys, second)
    if out[0] == NONE:
        cache_make_room(c, k)
        out[0] = cache_install(c, k, &t, space, phys, second)
    return FOUND


cdef bint remake_fragment(CpuState* c, Builder* b, u32 index) noexcept nogil:
    """Translate again a fragment whose guest bytes no longer match its copy of them.

    The fragment was entered, so its mapping has not changed.  Usually only a constant differs, and
    the new translation replaces the old one in place.  False: it cannot, and the dispatcher must
    make another fragment.
    """
    cdef Cache* k = <Cache*>c.cache
    cdef Fragment* f = &k.fragments[index]
    cdef u32 at = f.linear & 0xFFF
    cdef Template t
    c.arch.rip = f.rip
    c.n_stale += 1
    b.linear = f.linear
    b.rip = f.rip
    b.key = f.key
    b.block = c.block
    b.limit = MAX_INSNS
    b.room = debug_room(c, f.linear)
    b.watched = c.blocks != NULL
    b.has_devices = sites_of(c, f.linear, b.devices)
    b.noting = 0
    read_checked(b, ram_host(c, f.phys[0]) + at, 4096 - at)
    keep_to_limit(c, b)
    b.shapes = shapes_of(c, f.key)
    if translate(b, f.thunk != 0) == TRANSLATE_OK:
        t = template_of(b)
        if cache_revise(c, k, index, &t):
            return True
    cache_drop(c, k, index)
    return False


cdef bint offer_to_learn(CpuState* c, Builder* b, Fragment* f) noexcept nogil:
    """Give the builder the instruction at RIP, which is part of `f`, so that it is learned."""
    if not guest_bytes(c, f, <u32>(c.arch.rip - f.rip), &b.crossing[0]):
        return False
    b.shapes = shapes_of(c, f.key)
    b.code = &b.crossing[0]
    b.avail = 16
    b.learn_at = 0
    c.exit_kind = EXIT_LEARN
    return True


cdef bint site_found(CpuState* c, u32 index) noexcept nogil:
    """Note that the instruction at RIP, in fragment `index`, has faulted at a device.

    If it is to be translated anew, the fragment is dropped; others that contain it are as they
    fault in turn.  A watched guest stays as it is: each block has to end where it did.  False: the
    fragment is a kept one, and this run has not learned the instruction's shape.
    """
    cdef Cache* k = <Cache*>c.cache
    cdef Insn i
    cdef DeviceMove move
    cdef int r
    if c.blocks != NULL or k.fragments[index].key & KEY_STEP:
        return True
    r = decode(shapes_of(c, k.fragments[index].key), c.insn, 16, &i)
    if r == DECODE_OK and device_move(&i, &move) and site_met(c, code_linear(c, c.arch.rip)):
        cache_drop(c, k, index)
    return r != DECODE_LEARN
