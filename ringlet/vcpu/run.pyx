"""The run loop: find or make the fragment at RIP, run it, see why it came back.

All of it runs without the GIL and without touching a vector register, for those hold the guest's.
"""
from ringlet.core.state cimport *
from ringlet.core.template cimport Template, STUB_ENTER
from ringlet.cache.codecache cimport *
from ringlet.mmu.mmu cimport (mmu_fetch, mmu_space, mmu_protect_code, ram_host)
from ringlet.translate.builder cimport Builder, MAX_CHECKED, MAX_INSNS
from ringlet.translate.fragment cimport (translate_fragment, template_of, TRANSLATE_OK,
                                         TRANSLATE_LEARN, TRANSLATE_CROSS)
from ringlet.vcpu.emulate cimport emulate
from ringlet.vcpu.exceptions cimport deliver
from ringlet.vcpu.sysregs cimport CR0_AM

cdef extern from * nogil:
    """
    static inline void ringlet_fence(void) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
    static inline unsigned long ringlet_ticks(void) { return __builtin_ia32_rdtsc(); }
    """
    void ringlet_fence()
    u64 ringlet_ticks()

cdef enum:
    FOUND = 0
    RAISED = 1       # the fetch faults: exc_*
    LEAVE_LOOP = 2   # exit_kind says why

cdef enum:
    DR6_BS = 1 << 14
    ALIGN_IN = 1 << 19   # in scratch[2]: the host's AC flag is to be set (ringlet.core.stubs)
    PERIOD = 1 << 31     # of counting writes to pages with translations, TSC ticks
    PERIOD_LOOKUPS = 4095


cdef inline u64 poll_page(CpuState* c) noexcept nogil:
    return c.block + BLOCK_POLL


cdef void request_stop(CpuState* c) noexcept nogil:
    """Make the virtual processor come to a safepoint; any thread may."""
    ringlet_fence()
    c.poll = poll_page(c) + 4096


cdef void code_unmapped(CpuState* c, u64 linear, u64 pages) noexcept nogil:
    cache_drop_linear(c, <Cache*>c.cache, linear, pages)


cdef void code_written(CpuState* c, u64 phys_page) noexcept nogil:
    c.n_smc += 1
    cache_count_write(<Cache*>c.cache, phys_page)
    cache_drop_phys(c, <Cache*>c.cache, phys_page)


cdef void space_dropped(CpuState* c, u32 space) noexcept nogil:
    cache_drop_space(c, <Cache*>c.cache, space)


cdef inline void enter(CpuState* c, u64 host) noexcept nogil:
    """Run translated code from `host` until it leaves."""
    cdef u64* slots = <u64*>(c.block + (BLOCK_SLOTS_U if c.cpl == 3 else BLOCK_SLOTS_K))
    cdef u64 flags = c.rflags
    cdef u64 addend = slots[(c.gpr[RSP] >> SLOT_SHIFT) & 0xFFFF]
    c.rsp_naddend = 0 - addend
    c.scratch[3] = c.gpr[RSP] + addend
    c.win_addend = slots[(c.win_tag >> 4) & 0xFFFF]
    c.fs_host = c.seg[SEG_FS].base + slots[(c.seg[SEG_FS].base >> SLOT_SHIFT) & 0xFFFF]
    c.gs_host = c.seg[SEG_GS].base + slots[(c.seg[SEG_GS].base >> SLOT_SHIFT) & 0xFFFF]
    c.scratch[2] = ((flags & 0xD7) << 8) | ((flags >> 11) & 1) | ((flags & FLAG_DF) << 8)
    if flags & FLAG_AC and c.cpl == 3 and c.cr0 & CR0_AM:
        c.scratch[2] |= ALIGN_IN
    # RF lasts for one instruction; fragments hold no check of it.
    c.rflags = flags & ~<u64>(FLAGS_HOST | FLAG_RF)
    c.entry = host
    c.n_exits += 1
    (<void (*)() noexcept nogil>c.stub[STUB_ENTER])()
    c.rflags |= c.host_flags & FLAGS_HOST
    if c.exit_code <= LEAVE_OP or c.exit_code == LEAVE_STALE:
        c.gpr[RSP] = c.scratch[3] + c.rsp_naddend


cdef void read_checked(Builder* b, u8* source, u32 room) noexcept nogil:
    """Take a copy of the bytes for a fragment that compares it with them on entry."""
    cdef u32 i
    b.checked = 1
    b.source = source
    b.code = &b.copy[0]
    b.avail = room if room < MAX_CHECKED else MAX_CHECKED
    b.before = 0
    for i in range(b.avail):
        b.copy[i] = source[i]


cdef int translate(CpuState* c, Builder* b, u32 key, u32 space, bint indirect,
        u32* out) noexcept nogil:
    """Translate at RIP; FOUND puts the fragment's number in out[0]."""
    cdef Cache* k = <Cache*>c.cache
    cdef u64 phys = 0, second
    cdef u8* page
    cdef u32 at = c.rip & 0xFFF, i, room
    cdef Template t
    cdef int r
    r = mmu_fetch(c, c.rip, &phys)
    if r == MEM_FAULT:
        return RAISED
    phys &= ~<u64>0xFFF
    second = phys
    page = ram_host(c, phys)
    if r != MEM_OK or page == NULL:
        c.exit_kind = EXIT_INTERNAL
        c.internal = 1
        return LEAVE_LOOP
    b.linear = c.rip
    b.key = key
    b.block = c.block
    b.limit = MAX_INSNS
    if cache_is_hot(k, phys):
        read_checked(b, page + at, 4096 - at)
    else:
        # Before the bytes are read: a write after this is noticed.
        mmu_protect_code(c, phys)
        b.code = page + at
        b.avail = 4096 - at
        b.before = at
        b.checked = 0
    r = translate_fragment(b, indirect)
    if r == TRANSLATE_CROSS:
        # Protected even if it is hot: two pages are more than it checks.
        b.checked = 0
        mmu_protect_code(c, phys)
        r = mmu_fetch(c, (c.rip | 0xFFF) + 1, &second)
        if r == MEM_FAULT:
            return RAISED
        second &= ~<u64>0xFFF
        if r != MEM_OK or ram_host(c, second) == NULL:
            c.exit_kind = EXIT_INTERNAL
            c.internal = 1
            return LEAVE_LOOP
        mmu_protect_code(c, second)
        room = 4096 - at
        for i in range(16):
            b.crossing[i] = page[at + i] if i < room else ram_host(c, second)[i - room]
        b.code = &b.crossing[0]
        b.avail = 16
        b.before = 0
        b.limit = 1
        r = translate_fragment(b, indirect)
    if r == TRANSLATE_LEARN:
        c.exit_kind = EXIT_LEARN
        return LEAVE_LOOP
    t = template_of(b)
    out[0] = cache_install(c, k, &t, space, phys, second)
    if out[0] == NONE:
        cache_flush(c, k)
        out[0] = cache_install(c, k, &t, space, phys, second)
    return FOUND


cdef bint renew(CpuState* c, Builder* b, u32 index) noexcept nogil:
    """The guest bytes of a fragment that checks them have changed: translate them again.

    It was entered, so that its mapping is as it was; most often only a value differs, and the new
    translation takes its place.  False: it does not, and the dispatcher must make another.
    """
    cdef Cache* k = <Cache*>c.cache
    cdef Fragment* f = &k.fragments[index]
    cdef u32 at = f.linear & 0xFFF
    cdef Template t
    c.rip = f.linear
    c.n_stale += 1
    b.linear = f.linear
    b.key = f.key
    b.block = c.block
    b.limit = MAX_INSNS
    read_checked(b, ram_host(c, f.phys[0]) + at, 4096 - at)
    if translate_fragment(b, f.thunk != 0) == TRANSLATE_OK:
        t = template_of(b)
        if cache_revise(c, k, index, &t):
            return True
    cache_drop(c, k, index)
    return False


cdef int raised(CpuState* c) noexcept nogil:
    """Deliver the pending exception; an Exit, or EXIT_NONE to go on."""
    c.n_exceptions += 1
    if deliver(c) == EMU_EXIT:
        return c.exit_kind
    return EXIT_NONE


cdef int stepped(CpuState* c) noexcept nogil:
    """The single-step trap after an instruction that began with TF set (SDM 3B 18.3.1.4)."""
    raise_exc(c, VEC_DB)
    c.exc_dr6 = DR6_BS
    return raised(c)


cdef int events(CpuState* c) noexcept nogil:
    """What must be seen to before the next instruction: an Exit, or EXIT_NONE."""
    if c.poll != poll_page(c):
        c.poll = poll_page(c)
        ringlet_fence()
    if c.stop:
        c.stop = 0
        return EXIT_INTERRUPTED
    if c.intr and c.iflag and not c.inhibit:
        return EXIT_WINDOW
    return EXIT_NONE


cdef void end_period(CpuState* c, Cache* k) noexcept nogil:
    cdef u64 now = ringlet_ticks()
    if now - k.period > PERIOD:
        k.period = now
        cache_cool(c, k)


cdef inline void settle_tables(CpuState* c, Cache* k) noexcept nogil:
    """Indirect jumps must not lead to another address space's fragments."""
    cdef u32 low = mmu_space(c, 0), high = mmu_space(c, <u64>1 << 63)
    if high != k.table_high:
        cache_reset_table(c, k, 0, False)
        cache_reset_table(c, k, 1, False)
    elif low != k.table_low:
        cache_reset_table(c, k, 0, True)
        cache_reset_table(c, k, 1, True)
    k.table_low = low
    k.table_high = high


cdef int run_loop(CpuState* c, Builder* b) noexcept nogil:
    cdef Cache* k = <Cache*>c.cache
    cdef OpInfo* op
    cdef u32 index = NONE, key, space, link = NONE, generation = 0, drops, trap
    cdef bint indirect = False
    cdef int r, exit_kind
    cdef u32 shadow
    while True:
        exit_kind = events(c)
        if exit_kind != EXIT_NONE:
            return exit_kind
        key = c.key
        trap = key & KEY_STEP
        shadow = c.inhibit
        if c.inhibit:
            # The instruction after STI or MOV SS runs alone if an interrupt waits for its end.
            if c.intr:
                key |= KEY_STEP
            c.inhibit = 0
        settle_tables(c, k)
        if not c.n_lookups & PERIOD_LOOKUPS:
            end_period(c, k)
        space = mmu_space(c, c.rip)
        index = cache_find(k, c.rip, key, space)
        c.n_lookups += 1
        if index == NONE or (indirect and k.fragments[index].thunk == 0):
            r = translate(c, b, key, space, indirect, &index)
            if r == LEAVE_LOOP:
                return c.exit_kind
            if r == RAISED:
                link = NONE
                indirect = False
                exit_kind = raised(c)
                if exit_kind != EXIT_NONE:
                    return exit_kind
                continue
        if link != NONE:
            if generation == k.generation and not key & KEY_STEP \
                    and k.fragments[k.links[link].source].key == key \
                    and k.fragments[k.links[link].source].space == space:
                cache_link(k, link, index)
            link = NONE
        if indirect:
            if not key & KEY_STEP:
                cache_enter_table(c, k, index)
            indirect = False
        enter(c, <u64>k.run + k.fragments[index].body)
        while c.exit_code == LEAVE_STALE and renew(c, b, <u32>c.exit_arg):
            enter(c, <u64>k.run + k.fragments[<u32>c.exit_arg].body)
        while c.exit_code == LEAVE_OP:
            op = <OpInfo*>c.op_info
            c.rip = op.rip
            c.n_ops += 1
            drops = k.drops
            r = emulate(c, op)
            if r == EMU_NEXT and op.resume and not key & KEY_STEP and k.drops == drops \
                    and not c.inhibit and c.poll == poll_page(c) and not (c.intr and c.iflag):
                enter(c, op.resume)
                continue
            if r == EMU_EXIT:
                return c.exit_kind
            if r == EMU_FAULT:
                exit_kind = raised(c)
                if exit_kind != EXIT_NONE:
                    return exit_kind
            elif trap:
                exit_kind = stepped(c)
                if exit_kind != EXIT_NONE:
                    return exit_kind
            break
        if c.exit_code == LEAVE_LINK:
            c.n_links += 1
            link = <u32>c.exit_arg
            generation = k.generation
            c.rip = k.links[link].target
            if trap:
                link = NONE
                exit_kind = stepped(c)
                if exit_kind != EXIT_NONE:
                    return exit_kind
        elif c.exit_code == LEAVE_INDIRECT:
            c.n_indirect_misses += 1
            indirect = True
            if not is_canonical(c.rip):
                indirect = False
                raise_err(c, VEC_GP, 0)
                exit_kind = raised(c)
                if exit_kind != EXIT_NONE:
                    return exit_kind
            elif trap:
                indirect = False
                exit_kind = stepped(c)
                if exit_kind != EXIT_NONE:
                    return exit_kind
        elif c.exit_code == LEAVE_FAULT:
            c.n_guest_faults += 1
            exit_kind = raised(c)
            if exit_kind != EXIT_NONE:
                return exit_kind
        elif c.exit_code == LEAVE_EMULATE:
            c.exit_kind = EXIT_EMULATE
            return EXIT_EMULATE
        elif c.exit_code == LEAVE_STALE:
            if not k.fragments[<u32>c.exit_arg].dead:
                renew(c, b, <u32>c.exit_arg)
            # No instruction was performed that could end the shadow of the last.
            c.inhibit = shadow
        elif c.exit_code == LEAVE_POLL:
            c.n_safepoints += 1
