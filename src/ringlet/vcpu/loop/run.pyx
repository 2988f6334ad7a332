"""The run loop: find or make the fragment at RIP, run it, and act on the reason why it left.

One turn has three steps.  `choose` handles pending events and finds where to enter translated code,
`operate` carries out the sensitive instructions at which that code leaves, and `conclude` handles
the other reasons for leaving.  The loop does not hold the GIL, and it does not touch the vector
registers, which hold the guest's values.
"""
from ringlet.core.state cimport *
from ringlet.core.host cimport host_fence, host_gs_base, host_set_gs_base, host_ticks
from ringlet.core.prod cimport prod_disarm
from ringlet.cache.codecache cimport *
from ringlet.cache.invalidation cimport cache_cool
from ringlet.cache.jumps cimport jumps_enter, jumps_thunk
from ringlet.mmu.mmu cimport mmu_space
from ringlet.translate.builder cimport Builder
from ringlet.vcpu.debug.blocks cimport block_begins, block_ends
from ringlet.vcpu.debug.step cimport (
    Step, step_after, step_before, step_left, step_undone, step_watch)
from ringlet.vcpu.debug.stops cimport (
    DEBUG_ALONE, DEBUG_STOP, debug_after, debug_before, debug_stops)
from ringlet.vcpu.direct.crossing cimport CROSS_AGAIN, CROSS_MAKE, CROSS_RAISED, cross
from ringlet.vcpu.direct.target cimport DirectState
from ringlet.vcpu.loop.entry cimport enter_code
from ringlet.vcpu.loop.events cimport (
    deliver_exception, event_due, go_on_with_answer, take_events)
from ringlet.vcpu.loop.fragments cimport (
    LEAVE_LOOP, RAISED, make_fragment, offer_to_learn, remake_fragment, site_found)
from ringlet.vcpu.system.dispatch cimport emulate
from ringlet.vcpu.system.flags cimport virtual_interrupt_due
from ringlet.vcpu.system.pending cimport PENDING_OP

cdef enum:
    AGAIN = 0x100        # not an Exit: the loop begins its next turn
    PERIOD = 2000000000  # TSC ticks during which writes to pages with translations are counted
    PERIOD_LOOKUPS = 63

cdef u64 NO_WINDOW = 1       # of no page

# The state that the steps of a turn pass to each other, and one turn to the next.
cdef struct Turn:
    u64 host         # where translated code is entered
    u64 resume       # where it continues after an exit to Python, if nothing has changed; or 0
    u64 shadow       # RIP of the instruction after STI or MOV SS, if `inhibit` is not 0
    u32 inhibit
    u32 key          # the fragment's key
    u32 stepping     # KEY_STEP, if the guest or a debugger steps
    u32 index        # the fragment
    u32 link         # the link by which the last fragment left, to be patched; or NONE
    u32 generation   # the cache's generation when `link` was set
    u32 drops        # Cache.drops before the last operation
    bint indirect    # the last fragment left by an indirect branch; its table gets the target
    bint undone      # the operation has not begun, because a block has to be reported first
    Step step


cdef void begin_run(CpuState* c) noexcept nogil:
    c.running = 1
    c.gs_before = host_gs_base()
    c.gs_window = NO_WINDOW
    narrowed(c, c.key)
    # `take_events` sees the requests made before this point.
    host_fence()


cdef void end_run(CpuState* c) noexcept nogil:
    c.running = 0
    host_set_gs_base(c.gs_before)
    host_fence()
    if c.prodding:
        prod_disarm(c)


cdef inline bint is_target(CpuState* c) noexcept nogil:
    """Whether RIP is canonical, or in other code within the limit of CS."""
    if c.key & KEY_MODE64:
        return is_canonical(c.arch.rip)
    return c.arch.rip <= c.arch.seg[SEG_CS].limit


cdef inline u64 with_sp(u64 rsp, u64 sp) noexcept nogil:
    """Return RSP with another SP: the upper part stays that of a 16-bit stack."""
    return (rsp & ~<u64>0xFFFF) | (sp & 0xFFFF)


cdef int left_by_branch(CpuState* c, Builder* b, bint named) noexcept nogil:
    """Handle an indirect branch that missed its table: EMU_NEXT, or EMU_FAULT.

    A target that is not canonical raises the branch's own #GP.  The fragment records which branch
    it was only if `named`, that is, without speculation or in a single step.  Otherwise the #GP is
    reported with the target as RIP.
    """
    cdef OpInfo* op = <OpInfo*>c.op_info
    cdef u64 rsp
    if is_target(c):
        return EMU_NEXT
    if named or not c.key & KEY_MODE64:
        c.arch.rip = op.rip
        rsp = c.arch.gpr[RSP] + op.imm
        c.arch.gpr[RSP] = with_sp(c.arch.gpr[RSP], rsp) if c.key & KEY_STACK16 else rsp
        narrowed(c, c.key)
    return raise_err(c, VEC_GP, 0)


cdef inline bint resumes(CpuState* c, Cache* k, u64 host, u32 key) noexcept nogil:
    """Whether nothing has changed since the exit to Python, so that code can continue at `host`."""
    return (host != 0 and c.arch.rip == c.resume_rip and key == c.resume_key
            and c.arch.seg[SEG_CS].base == c.resume_base and k.drops == c.resume_drops
            and not c.arch.inhibit and not key & KEY_STEP)


cdef inline void remember(CpuState* c, Cache* k, OpInfo* op, u32 key) noexcept nogil:
    """Record, for `resumes`, the state in which an operation leaves for Python."""
    c.resume = op.resume
    c.resume_rip = op.rip + op.length
    c.resume_base = c.arch.seg[SEG_CS].base
    c.resume_key = key
    c.resume_drops = k.drops


cdef void end_period(CpuState* c, Cache* k) noexcept nogil:
    cdef u64 now = host_ticks()
    if now - k.period > PERIOD:
        k.period = now
        cache_cool(c, k)


cdef inline bint runs_directly(CpuState* c) noexcept nogil:
    """Whether code of CPL 3 is to go on in a direct process."""
    return c.direct != NULL and c.arch.cpl == 3 and not c.direct_held


cdef inline bint settled(CpuState* c) noexcept nogil:
    """Whether no event waits, and nothing steps."""
    return (not c.key & KEY_STEP and not c.arch.inhibit and not c.attention
            and not event_due(c) and not runs_directly(c))


cdef inline bint has_odd_limit(u32 key) noexcept nogil:
    """Whether the key does not tell the limit of CS."""
    return key & (KEY_CS64K | KEY_CS_ODD) == KEY_CS_ODD


cdef inline bint passes_limit(CpuState* c, Fragment* f) noexcept nogil:
    """Whether a fragment was made for a CS with another limit, beyond which it goes on."""
    return has_odd_limit(f.key) and f.rip + f.guest_bytes > <u64>c.arch.seg[SEG_CS].limit + 1


cdef inline void forget_way(Turn* t) noexcept nogil:
    """Do not link the last fragment's branch to the next fragment, which is not its target."""
    t.link = NONE
    t.indirect = False


cdef inline void keep_shadow(CpuState* c, Turn* t) noexcept nogil:
    """Put the instruction at RIP back into its shadow: it has not been executed yet."""
    if t.inhibit and c.arch.rip == t.shadow:
        c.arch.inhibit = t.inhibit


cdef inline void take_shadow(CpuState* c, Turn* t) noexcept nogil:
    """Enter the instruction at RIP; its interrupt shadow, if it is in one, ends with it."""
    t.shadow = c.arch.rip
    t.inhibit = c.arch.inhibit
    c.arch.inhibit = 0


cdef int raise_and_go_on(CpuState* c, Turn* t) noexcept nogil:
    """Deliver the exception in exc_*; return an Exit or AGAIN."""
    cdef int exit_kind
    forget_way(t)
    exit_kind = deliver_exception(c)
    return exit_kind if exit_kind != EXIT_NONE else AGAIN


cdef int find_or_make(CpuState* c, Builder* b, Cache* k, Turn* t) noexcept nogil:
    """Find or make the fragment at RIP, and link the last fragment's branch to it.

    Return an Exit, AGAIN, or EXIT_NONE: enter the fragment at Turn.host.
    """
    cdef u32 space
    cdef u64 linear
    cdef int r
    take_shadow(c, t)
    if t.inhibit and event_due(c):
        # The instruction after STI or MOV SS runs alone if an event waits for the shadow's end.
        t.key |= KEY_STEP
    if c.alone:
        # What stands in translated code for a sensitive instruction has faulted: perform it.
        c.alone = 0
        t.key |= KEY_STEP
    if c.direct != NULL and (<DirectState*>c.direct).step:
        # A direct process has stopped at this instruction.
        (<DirectState*>c.direct).step = 0
        t.key |= KEY_STEP
    if not c.n_lookups & PERIOD_LOOKUPS:
        end_period(c, k)
    linear = code_linear(c, c.arch.rip)
    space = mmu_space(c, linear)
    t.index = cache_find(k, linear, c.arch.rip, t.key, space)
    c.n_lookups += 1
    if t.key & KEY_STEP or has_odd_limit(t.key):
        # A link would lead to the fragment whatever the limit is.
        forget_way(t)
    if t.index != NONE and passes_limit(c, &k.fragments[t.index]):
        cache_drop(c, k, t.index)
        t.index = NONE
    if t.index == NONE or (t.indirect and k.fragments[t.index].thunk == 0):
        r = make_fragment(c, b, t.key, space, t.indirect, &t.index)
        if r == LEAVE_LOOP:
            keep_shadow(c, t)
            return c.exit_kind
        if r == RAISED:
            return raise_and_go_on(c, t)
    if c.blocks != NULL and not t.key & KEY_STEP and block_begins(c, &k.fragments[t.index]):
        c.arch.inhibit = t.inhibit
        return EXIT_BLOCK
    if c.blocks == NULL:
        if t.link != NONE and t.generation == k.generation:
            cache_link(k, t.link, t.index)
        if t.indirect:
            jumps_enter(c, k, t.index)
    forget_way(t)
    if t.stepping:
        step_watch(c, &k.fragments[t.index], &t.step)
    t.host = <u64>k.run + k.fragments[t.index].body
    return EXIT_NONE


cdef int choose(CpuState* c, Builder* b, Cache* k, Turn* t) noexcept nogil:
    """Handle what is due before the next instruction, and find where to enter translated code.

    Return an Exit, AGAIN, or EXIT_NONE: enter at Turn.host.
    """
    cdef u64 interrupts = c.n_interrupts
    cdef int r
    if c.debugger != NULL and debug_stops(c):
        return EXIT_DEBUG
    r = take_events(c)
    if r != EXIT_NONE:
        return r
    if c.n_interrupts != interrupts:
        # The last fragment's branch does not lead to the interrupt handler.
        forget_way(t)
    t.key = c.key
    if virtual_interrupt_due(c):
        raise_err(c, VEC_GP, 0)
        return raise_and_go_on(c, t)
    if c.debugger != NULL:
        r = debug_before(c)
        if r == DEBUG_STOP:
            return EXIT_DEBUG
        if r == DEBUG_ALONE:
            t.key |= KEY_STEP
    t.stepping = t.key & KEY_STEP
    if runs_directly(c) and not t.stepping and c.blocks == NULL and c.debugger == NULL \
            and not (<DirectState*>c.direct).step:
        r = cross(c)
        if r == CROSS_AGAIN or r == CROSS_RAISED:
            t.resume = 0
            forget_way(t)
            return AGAIN if r == CROSS_AGAIN else raise_and_go_on(c, t)
        if r == CROSS_MAKE:
            c.exit_kind = EXIT_DIRECT
            return EXIT_DIRECT
    if resumes(c, k, t.resume, t.key):
        t.host = t.resume
        return EXIT_NONE
    if (t.stepping or c.arch.db_pending) and step_before(c, c.arch.inhibit, &t.step):
        return raise_and_go_on(c, t)
    return find_or_make(c, b, k, t)


cdef inline void enter_thunk(CpuState* c, u64 host) noexcept nogil:
    """Enter translated code by a thunk, which compares RIP and, where CS is based, its address."""
    if c.key & (KEY_CS64K | KEY_CS_ODD):
        c.arch.rip |= code_linear(c, c.arch.rip) << 32
    enter_code(c, host)
    if not c.key & KEY_MODE64:
        c.arch.rip = <u32>c.arch.rip


cdef int operate(CpuState* c, Cache* k, Turn* t) noexcept nogil:
    """Carry out the operations at which translated code leaves; return EMU_* of the last one.

    The loop ends when the code cannot be entered again without a lookup.
    """
    cdef OpInfo* op
    cdef u64 host
    cdef int r = EMU_NEXT
    while c.exit_code == LEAVE_OP:
        op = <OpInfo*>c.op_info
        c.arch.rip = op.rip
        if not t.key & KEY_STEP and block_ends(c, op.rip):
            t.undone = True
            return r
        c.n_ops += 1
        t.drops = k.drops
        # The operation ends its interrupt shadow, if it is in one, and may open another.
        c.arch.inhibit = t.inhibit if op.rip == t.shadow else 0
        t.inhibit = 0
        r = emulate(c, op)
        if r == EMU_NEXT and op.resume and c.blocks == NULL and not t.key & KEY_STEP \
                and k.drops == t.drops and c.key == t.key \
                and not c.attention and not event_due(c):
            if c.arch.inhibit:
                take_shadow(c, t)
            enter_code(c, op.resume)
            continue
        if r == EMU_FLOW and not t.stepping and c.blocks == NULL and settled(c) \
                and is_target(c) and not virtual_interrupt_due(c) and not has_odd_limit(c.key):
            host = jumps_thunk(c, k, mmu_space(c, code_linear(c, c.arch.rip)))
            if host != 0:
                t.key = c.key
                enter_thunk(c, host)
                continue
        return r
    return r


cdef int leave_with_exit(CpuState* c, Cache* k, Turn* t) noexcept nogil:
    """Leave to Python, which the operation needs."""
    if k.drops == t.drops and c.blocks == NULL:
        remember(c, k, <OpInfo*>c.op_info, t.key)
    if t.stepping and c.exit_kind == EXIT_EMULATE:
        step_undone(c, &t.step)
    elif t.stepping:
        step_left(c, &t.step)
    if c.debugger != NULL:
        debug_after(c, False)
    return c.exit_kind


cdef int leave_for_emulator(CpuState* c, Turn* t) noexcept nogil:
    """Leave the instruction at RIP to the general emulator, which checks watchpoints itself."""
    if t.stepping:
        step_undone(c, &t.step)
    if c.debugger != NULL:
        debug_after(c, False)
    c.exit_kind = EXIT_EMULATE
    return EXIT_EMULATE


cdef int begin_again(CpuState* c, Builder* b, Cache* k, Turn* t) noexcept nogil:
    """Begin the instruction at RIP again; return AGAIN or EXIT_LEARN.

    The fragment left at a safepoint, or a binding, the fragment itself or a shape was missing.
    """
    if c.exit_code == LEAVE_STALE and not k.fragments[<u32>c.exit_arg].dead:
        remake_fragment(c, b, <u32>c.exit_arg)
    keep_shadow(c, t)
    if t.stepping:
        step_undone(c, &t.step)
    if c.exit_code == LEAVE_UNKNOWN and offer_to_learn(c, b, &k.fragments[<u32>c.exit_arg]):
        return EXIT_LEARN
    return AGAIN


cdef int conclude(CpuState* c, Builder* b, Cache* k, Turn* t, int r) noexcept nogil:
    """Act on the reason why translated code left; return an Exit or AGAIN.

    `r` is EMU_* of the last operation.
    """
    if c.exit_code == LEAVE_OP:
        if r == EMU_EXIT and c.exit_kind == EXIT_HLT:
            if c.patient and c.arch.iflag:
                # The processor sleeps at the beginning of the next turn, then continues as after a
                # branch.
                r = EMU_FLOW
            else:
                c.arch.halted = 0   # the machine waits or stops
        if r == EMU_EXIT:
            return leave_with_exit(c, k, t)
    elif c.exit_code == LEAVE_LINK:
        c.n_links += 1
        t.link = <u32>c.exit_arg
        t.generation = k.generation
        c.arch.rip = k.links[t.link].target
        if not t.key & KEY_MODE64:
            c.arch.rip = <u32>c.arch.rip
    elif c.exit_code == LEAVE_INDIRECT:
        c.n_indirect_misses += 1
        if not t.key & KEY_MODE64:
            c.arch.rip = <u32>c.arch.rip
        r = left_by_branch(c, b, not b.speculate or t.key & KEY_STEP)
        t.indirect = r == EMU_NEXT
    elif c.exit_code == LEAVE_FAULT:
        c.n_guest_faults += 1
        r = EMU_FAULT
    elif c.exit_code == LEAVE_EMULATE:
        if c.met_device:
            c.exit_arg = c.met_device - 1
            c.met_device = 0
            if not site_found(c, <u32>c.exit_arg):
                c.exit_code = LEAVE_UNKNOWN
                return begin_again(c, b, k, t)
        return leave_for_emulator(c, t)
    elif c.exit_code != LEAVE_STEPPED:
        return begin_again(c, b, k, t)
    if t.stepping:
        r = step_after(c, &t.step, r, c.exit_code == LEAVE_OP)
    if c.debugger != NULL:
        debug_after(c, t.stepping and t.step.repeats and c.arch.rip == t.step.rip)
    return raise_and_go_on(c, t) if r == EMU_FAULT else AGAIN


cdef int run_loop(CpuState* c, Builder* b) noexcept nogil:
    cdef Cache* k = <Cache*>c.cache
    cdef Turn t
    cdef int r
    if c.pending >= PENDING_OP:
        r = go_on_with_answer(c)
        if r != EXIT_NONE:
            return r
    t.resume = c.resume
    t.index = NONE
    t.shadow = t.inhibit = t.drops = t.generation = 0
    t.undone = False
    forget_way(&t)
    c.resume = 0
    while True:
        r = choose(c, b, k, &t)
        if r == AGAIN:
            continue
        if r != EXIT_NONE:
            return r
        t.resume = 0
        enter_code(c, t.host)
        while c.exit_code == LEAVE_STALE and not c.attention \
                and remake_fragment(c, b, <u32>c.exit_arg):
            enter_code(c, <u64>k.run + k.fragments[<u32>c.exit_arg].body)
        r = operate(c, k, &t)
        if t.undone:
            t.undone = False
            keep_shadow(c, &t)
            continue
        r = conclude(c, b, k, &t, r)
        if r != AGAIN:
            return r
