"""The run loop: find or make the fragment at RIP, run it, see why it came back.

All of it runs without the GIL and without touching a vector register, for those hold the guest's.
"""
from ringlet.core.state cimport *
from ringlet.core.alarm cimport alarm_wait
from ringlet.core.host cimport host_fence, host_ticks
from ringlet.core.prod cimport prod_disarm
from ringlet.core.template cimport Template, STUB_ENTER
from ringlet.cache.codecache cimport *
from ringlet.cache.halt cimport cache_unhalt
from ringlet.cache.jumps cimport jumps_enter, jumps_set_spaces, jumps_thunk
from ringlet.mmu.mmu cimport (mmu_fetch, mmu_space, mmu_protect_code, ram_host)
from ringlet.translate.builder cimport Builder, MAX_CHECKED, MAX_INSNS
from ringlet.translate.fragment cimport (translate_fragment, template_of, TRANSLATE_OK,
                                         TRANSLATE_LEARN, TRANSLATE_CROSS)
from ringlet.translate.kept cimport Kept, kept_add, kept_find
from ringlet.vcpu.system.dispatch cimport begin_anew, emulate
from ringlet.vcpu.apic.local cimport (INTR_LOCAL, apic_accept, apic_due, apic_tick, apic_update)
from ringlet.vcpu.debug.blocks cimport (EXCEPTION, INTERRUPT, block_begins, block_ends,
                                  blocks_event)
from ringlet.vcpu.debug.stops cimport (DEBUG_ALONE, DEBUG_STOP, debug_after, debug_before,
                                    debug_holds, debug_room, debug_stops)
from ringlet.vcpu.loop.events cimport event_due, nmi_due
from ringlet.vcpu.loop.exceptions cimport deliver, interrupt, nmi
from ringlet.vcpu.loop.faults cimport guest_bytes
from ringlet.vcpu.system.pending cimport PENDING_OP
from ringlet.vcpu.debug.step cimport (
    Step, step_after, step_before, step_left, step_undone, step_watch)
from ringlet.vcpu.system.registers cimport CR0_AM, DR6_BS

cdef enum:
    FOUND = 0
    RAISED = 1       # the fetch faults: exc_*
    LEAVE_LOOP = 2   # exit_kind says why

cdef enum:
    ALIGN_IN = 1 << 19   # in scratch[2]: the host's AC flag is to be set (ringlet.core.stubs)
    PERIOD = 1 << 31     # of counting writes to pages with translations, TSC ticks
    PERIOD_LOOKUPS = 4095


cdef void begin_run(CpuState* c) noexcept nogil:
    c.running = 1
    # `events` looks for requests made before this.
    host_fence()


cdef void end_run(CpuState* c) noexcept nogil:
    c.running = 0
    host_fence()
    if c.prodding:
        prod_disarm(c)


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
    cdef u64* slots = <u64*>(c.block + (BLOCK_SLOTS_U if c.arch.cpl == 3 else BLOCK_SLOTS_K))
    cdef u64 flags = c.arch.rflags
    cdef u64 addend = slots[(c.arch.gpr[RSP] >> SLOT_SHIFT) & 0xFFFF]
    c.rsp_naddend = 0 - addend
    c.scratch[3] = c.arch.gpr[RSP] + addend
    c.win_addend = slots[(c.win_tag >> 4) & 0xFFFF]
    c.fs_host = c.arch.seg[SEG_FS].base + slots[(c.arch.seg[SEG_FS].base >> SLOT_SHIFT) & 0xFFFF]
    c.gs_host = c.arch.seg[SEG_GS].base + slots[(c.arch.seg[SEG_GS].base >> SLOT_SHIFT) & 0xFFFF]
    c.scratch[2] = ((flags & 0xD7) << 8) | ((flags >> 11) & 1) | ((flags & FLAG_DF) << 8)
    if flags & FLAG_AC and c.arch.cpl == 3 and c.arch.cr0 & CR0_AM:
        c.scratch[2] |= ALIGN_IN
    # RF lasts for one instruction; fragments hold no check of it.
    c.arch.rflags = flags & ~<u64>(FLAGS_HOST | FLAG_RF)
    # If the stub turns back at once.
    c.host_flags = flags
    c.entry = host
    c.n_exits += 1
    (<void (*)() noexcept nogil>c.stub[STUB_ENTER])()
    c.arch.rflags |= c.host_flags & FLAGS_HOST
    if c.exit_code <= LEAVE_OP or c.exit_code == LEAVE_STALE:
        c.arch.gpr[RSP] = c.scratch[3] + c.rsp_naddend


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
    cdef u32 at = c.arch.rip & 0xFFF, i, room
    cdef Kept* kept = <Kept*>c.kept
    cdef Template t
    cdef bint known = False
    cdef int r
    r = mmu_fetch(c, c.arch.rip, &phys)
    if r == MEM_FAULT:
        return RAISED
    phys &= ~<u64>0xFFF
    second = phys
    page = ram_host(c, phys)
    if r != MEM_OK or page == NULL:
        c.exit_kind = EXIT_NO_RAM
        return LEAVE_LOOP
    if not key & KEY_MODE64:
        c.exit_kind = EXIT_NOT_64
        return LEAVE_LOOP
    b.linear = c.arch.rip
    b.key = key
    b.block = c.block
    b.limit = MAX_INSNS
    b.room = debug_room(c, c.arch.rip)
    if cache_is_hot(k, phys):
        read_checked(b, page + at, 4096 - at)
    else:
        # Before the bytes are read: a write after this is noticed.
        mmu_protect_code(c, phys)
        b.code = page + at
        b.avail = 4096 - at
        b.before = at
        b.checked = 0
    b.noting = kept != NULL and not b.room and not key & KEY_STEP
    if b.noting and kept_find(kept, b, indirect, &t):
        known = True
        r = TRANSLATE_OK
    else:
        r = translate_fragment(b, indirect)
    if r == TRANSLATE_CROSS:
        # Protected even if it is hot: two pages are more than it checks.
        b.checked = b.noting = 0
        mmu_protect_code(c, phys)
        r = mmu_fetch(c, (c.arch.rip | 0xFFF) + 1, &second)
        if r == MEM_FAULT:
            return RAISED
        second &= ~<u64>0xFFF
        if r != MEM_OK or ram_host(c, second) == NULL:
            c.exit_kind = EXIT_NO_RAM
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
    if known:
        c.n_kept += 1
    else:
        t = template_of(b)
        c.n_fragments += 1
        c.n_guest_insns += t.insns
        c.n_guest_bytes += t.guest_bytes
        if b.noting:
            kept_add(kept, b, &t)
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
    c.arch.rip = f.linear
    c.n_stale += 1
    b.linear = f.linear
    b.key = f.key
    b.block = c.block
    b.limit = MAX_INSNS
    b.room = debug_room(c, f.linear)
    b.noting = 0
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
    if c.blocks != NULL:
        blocks_event(c, EXCEPTION, c.exc_vector | <u64>c.exc_error << 32, c.arch.cr2)
    if deliver(c) == EMU_EXIT:
        return c.exit_kind
    return EXIT_NONE


cdef int answered(CpuState* c) noexcept nogil:
    """A device has answered: go on with what asked it.  An Exit, or EXIT_NONE."""
    cdef int result = begin_anew(c)
    if result == EMU_FAULT:
        if not (c.exc_vector == VEC_DB and c.exc_dr6 & DR6_BS):
            c.arch.db_pending = 0
        return raised(c)
    return c.exit_kind if result == EMU_EXIT else EXIT_NONE


cdef void sleep(CpuState* c) noexcept nogil:
    """Halted: wait for a request, or for the time of the next event."""
    c.sleeping = 1
    host_fence()
    if not c.attention:
        alarm_wait(c, apic_due(c))
    c.sleeping = 0
    c.attention = 1


cdef int events(CpuState* c) noexcept nogil:
    """What must be seen to before the next instruction: an Exit, or EXIT_NONE."""
    cdef u32 vector
    while True:
        if c.attention:
            cache_unhalt(c, <Cache*>c.cache)
            c.n_safepoints += 1
            c.attention = 0
            host_fence()
            apic_tick(c)
            apic_update(c)
        if c.stop:
            c.stop = 0
            return EXIT_INTERRUPTED
        if c.arch.inhibit or (c.debugger != NULL and debug_holds(c)):
            return EXIT_NONE
        if nmi_due(c):
            if nmi(c) == EMU_EXIT:
                return c.exit_kind
        elif c.intr and c.arch.iflag:
            if not c.intr & INTR_LOCAL:
                return EXIT_WINDOW
            vector = apic_accept(c)
            if c.blocks != NULL:
                blocks_event(c, INTERRUPT, vector, 0)
            if interrupt(c, vector) == EMU_EXIT:
                return c.exit_kind
        elif c.arch.halted and c.patient:
            sleep(c)
        else:
            return EXIT_NONE


cdef int left_by_branch(CpuState* c, Builder* b, bint named) noexcept nogil:
    """An indirect branch missed its table: EMU_NEXT, or EMU_FAULT where its target is no address.

    That is the branch's own #GP; but only where speed was not asked for (`named`) is it known
    which one it was, and RIP is the target otherwise.
    """
    cdef OpInfo* op = <OpInfo*>c.op_info
    if is_canonical(c.arch.rip):
        return EMU_NEXT
    if named:
        c.arch.rip = op.rip
        c.arch.gpr[RSP] += op.imm
    return raise_err(c, VEC_GP, 0)


cdef inline bint resumes(CpuState* c, Cache* k, u64 host, u32 key) noexcept nogil:
    """Nothing has changed since the exit to Python: translated code goes on at `host`."""
    return (host != 0 and c.arch.rip == c.resume_rip and key == c.resume_key
            and k.drops == c.resume_drops and not c.arch.inhibit and not key & KEY_STEP)


cdef inline void remember(CpuState* c, Cache* k, OpInfo* op, u32 key) noexcept nogil:
    """The operation, in a fragment of `key`, leaves for Python: what `resumes` compares."""
    c.resume = op.resume
    c.resume_rip = op.rip + op.length
    c.resume_key = key
    c.resume_drops = k.drops


cdef void end_period(CpuState* c, Cache* k) noexcept nogil:
    cdef u64 now = host_ticks()
    if now - k.period > PERIOD:
        k.period = now
        cache_cool(c, k)


cdef inline bint settled(CpuState* c, Cache* k) noexcept nogil:
    """No event waits, nothing steps, and the jump tables are this address space's."""
    return (not c.key & KEY_STEP and not c.arch.inhibit and not c.attention
            and not event_due(c) and k.space[0] == mmu_space(c, 0)
            and k.space[1] == mmu_space(c, <u64>1 << 63))


cdef bint to_learn(CpuState* c, Builder* b, Fragment* f) noexcept nogil:
    """Give the builder the instruction at RIP, which is in `f`, to be learned."""
    if not guest_bytes(c, f, <u32>(c.arch.rip - f.linear), &b.crossing[0]):
        return False
    b.code = &b.crossing[0]
    b.avail = 16
    b.learn_at = 0
    c.exit_kind = EXIT_LEARN
    return True


cdef int run_loop(CpuState* c, Builder* b) noexcept nogil:
    cdef Cache* k = <Cache*>c.cache
    cdef OpInfo* op
    cdef Step step
    cdef u64 host, resume = c.resume, interrupts
    cdef u64 shadow = 0   # RIP of the instruction after STI or MOV SS, if `inhibit` says so
    cdef u32 index = NONE, key, space, link = NONE, generation = 0, drops, stepping, inhibit = 0
    cdef bint indirect = False, again = False
    cdef int r, exit_kind
    if c.pending >= PENDING_OP:
        exit_kind = answered(c)
        if exit_kind != EXIT_NONE:
            return exit_kind
    c.resume = 0
    while True:
        if c.debugger != NULL and debug_stops(c):
            return EXIT_DEBUG
        interrupts = c.n_interrupts
        exit_kind = events(c)
        if exit_kind != EXIT_NONE:
            return exit_kind
        if c.n_interrupts != interrupts:
            # What is to be linked does not lead to the handler.
            link = NONE
            indirect = False
        key = c.key
        if c.debugger != NULL:
            r = debug_before(c)
            if r == DEBUG_STOP:
                return EXIT_DEBUG
            if r == DEBUG_ALONE:
                key |= KEY_STEP
        stepping = key & KEY_STEP
        jumps_set_spaces(c, k, mmu_space(c, 0), mmu_space(c, <u64>1 << 63))
        if resumes(c, k, resume, key):
            host = resume
        else:
            if (stepping or c.arch.db_pending) and step_before(c, c.arch.inhibit, &step):
                link = NONE
                indirect = False
                exit_kind = raised(c)
                if exit_kind != EXIT_NONE:
                    return exit_kind
                continue
            shadow = c.arch.rip
            inhibit = c.arch.inhibit
            c.arch.inhibit = 0
            if inhibit and event_due(c):
                # The instruction after STI or MOV SS runs alone if something waits for its end.
                key |= KEY_STEP
            if not c.n_lookups & PERIOD_LOOKUPS:
                end_period(c, k)
            space = mmu_space(c, c.arch.rip)
            index = cache_find(k, c.arch.rip, key, space)
            c.n_lookups += 1
            if key & KEY_STEP:
                link = NONE
                indirect = False
            if index == NONE or (indirect and k.fragments[index].thunk == 0):
                r = translate(c, b, key, space, indirect, &index)
                if r == LEAVE_LOOP:
                    if inhibit and c.arch.rip == shadow:
                        c.arch.inhibit = inhibit
                    return c.exit_kind
                if r == RAISED:
                    link = NONE
                    indirect = False
                    exit_kind = raised(c)
                    if exit_kind != EXIT_NONE:
                        return exit_kind
                    continue
            if c.blocks != NULL and not key & KEY_STEP and block_begins(c):
                c.arch.inhibit = inhibit
                return EXIT_BLOCK
            if link != NONE:
                if c.blocks == NULL and generation == k.generation:
                    cache_link(k, link, index)
                link = NONE
            if indirect:
                if c.blocks == NULL:
                    jumps_enter(c, k, index)
                indirect = False
            if stepping:
                step_watch(c, &k.fragments[index], &step)
            host = <u64>k.run + k.fragments[index].body
        resume = 0
        enter(c, host)
        while c.exit_code == LEAVE_STALE and not c.attention and renew(c, b, <u32>c.exit_arg):
            enter(c, <u64>k.run + k.fragments[<u32>c.exit_arg].body)
        r = EMU_NEXT
        while c.exit_code == LEAVE_OP:
            op = <OpInfo*>c.op_info
            c.arch.rip = op.rip
            if not key & KEY_STEP and block_ends(c, op.rip):
                again = True
                break
            c.n_ops += 1
            drops = k.drops
            # The operation ends the shadow in which it stands, if any, and may open another.
            c.arch.inhibit = inhibit if op.rip == shadow else 0
            inhibit = 0
            r = emulate(c, op)
            if r == EMU_NEXT and op.resume and c.blocks == NULL and not key & KEY_STEP \
                    and k.drops == drops and c.key == key \
                    and not c.attention and not event_due(c):
                if c.arch.inhibit:
                    shadow = c.arch.rip
                    inhibit = c.arch.inhibit
                    c.arch.inhibit = 0
                enter(c, op.resume)
                continue
            if r == EMU_FLOW and not stepping and c.blocks == NULL and settled(c, k) \
                    and is_canonical(c.arch.rip):
                host = jumps_thunk(c, k)
                if host != 0:
                    key = c.key
                    enter(c, host)
                    continue
            break
        if again:
            # The instruction is still to do.
            again = False
            if inhibit and c.arch.rip == shadow:
                c.arch.inhibit = inhibit
            continue
        if c.exit_code == LEAVE_OP:
            if r == EMU_EXIT and c.exit_kind == EXIT_HLT:
                if c.patient and c.arch.iflag:
                    # Sleeps at the head of the loop, and goes on as after any change of flow.
                    r = EMU_FLOW
                else:
                    c.arch.halted = 0   # the machine waits, or gives up
            if r == EMU_EXIT:
                if k.drops == drops and c.blocks == NULL:
                    remember(c, k, op, key)
                if stepping and c.exit_kind == EXIT_EMULATE:
                    step_undone(c, &step)
                elif stepping:
                    step_left(c, &step)
                if c.debugger != NULL:
                    debug_after(c, False)
                return c.exit_kind
        elif c.exit_code == LEAVE_LINK:
            c.n_links += 1
            link = <u32>c.exit_arg
            generation = k.generation
            c.arch.rip = k.links[link].target
        elif c.exit_code == LEAVE_INDIRECT:
            c.n_indirect_misses += 1
            r = left_by_branch(c, b, not b.speculate or key & KEY_STEP)
            indirect = r == EMU_NEXT
        elif c.exit_code == LEAVE_FAULT:
            c.n_guest_faults += 1
            r = EMU_FAULT
        elif c.exit_code == LEAVE_EMULATE:
            if stepping:
                # The emulator watches its accesses itself.
                step_undone(c, &step)
            if c.debugger != NULL:
                debug_after(c, False)
            c.exit_kind = EXIT_EMULATE
            return EXIT_EMULATE
        elif c.exit_code != LEAVE_STEPPED:
            # A safepoint, or bindings or the fragment went stale: the instruction is still to do.
            if c.exit_code == LEAVE_STALE and not k.fragments[<u32>c.exit_arg].dead:
                renew(c, b, <u32>c.exit_arg)
            if inhibit and c.arch.rip == shadow:
                c.arch.inhibit = inhibit
            if stepping:
                step_undone(c, &step)
            if c.exit_code == LEAVE_UNKNOWN and to_learn(c, b, &k.fragments[<u32>c.exit_arg]):
                return EXIT_LEARN
            continue
        if stepping:
            r = step_after(c, &step, r, c.exit_code == LEAVE_OP)
        if c.debugger != NULL:
            debug_after(c, stepping and step.repeats and c.arch.rip == step.rip)
        if r == EMU_FAULT:
            link = NONE
            indirect = False
            exit_kind = raised(c)
            if exit_kind != EXIT_NONE:
                return exit_kind
