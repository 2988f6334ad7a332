"""Which address spaces run their code of CPL 3 directly.

A direct process runs code at the host's speed, but each trap costs two switches between processes,
and all that the program touches faults once more there.  Translated code is slower and traps for
little.  So a space begins translated, and a short process never pays for more.  It changes over
when the time it has between its traps is worth it, and back when it is not.

Time at CPL 3 under translation is sampled: each interrupt counts the time since the last one for
the space that it interrupts.  In a direct process it is measured.
"""
from ringlet.core.host cimport host_ticks
from ringlet.core.state cimport CpuState, u32, u64
from ringlet.mmu.mmu cimport mmu_space
from ringlet.vcpu.direct.target cimport DIRECT_ALWAYS, USES, DirectState, Policy, Use

cdef enum:
    SAMPLE_MAX_US = 10000    # of a sample: a processor that has slept was not at CPL 3 meanwhile
    PERIOD_US = 6000         # at CPL 3, after which a translated space is considered
    WORTH_US = 10            # translated between traps
    PERIOD_RUNS = 512        # after which a direct space is considered
    LEAST_US = 7             # a run, of which the switches take three
    DOUBLINGS_MAX = 6


cdef inline Use* use_of(CpuState* c, Policy* p) noexcept nogil:
    cdef u32 space = mmu_space(c, 0)
    cdef Use* use = &p.uses[space & (USES - 1)]
    if use.space != space:
        use.space = space
        use.direct = p.mode == DIRECT_ALWAYS
        use.returns = use.doublings = 0
        use.user = 0
    return use


cdef inline void begin_period(Use* use) noexcept nogil:
    use.returns = 0
    use.user = 0


cdef void policy_returns(CpuState* c) noexcept nogil:
    cdef Use* use = use_of(c, &(<DirectState*>c.direct).policy)
    use.returns += 1
    c.direct_held = not use.direct


cdef void policy_interrupt(CpuState* c) noexcept nogil:
    cdef Policy* p = &(<DirectState*>c.direct).policy
    cdef u64 now = host_ticks()
    cdef u64 ticks = min(now - p.ticked, SAMPLE_MAX_US * p.us)
    cdef Use* use
    p.ticked = now
    if c.arch.cpl != 3:
        return
    use = use_of(c, p)
    if use.direct:
        return
    use.user += ticks
    if use.user < (PERIOD_US * p.us) << use.doublings:
        return
    if use.user > WORTH_US * p.us * use.returns:
        use.direct = 1
        c.n_direct_spaces += 1
    begin_period(use)


cdef void policy_ran(CpuState* c, u64 ticks) noexcept nogil:
    cdef Policy* p = &(<DirectState*>c.direct).policy
    cdef Use* use = use_of(c, p)
    use.user += ticks
    if use.returns < PERIOD_RUNS or p.mode == DIRECT_ALWAYS:
        return
    if use.user < LEAST_US * p.us * use.returns:
        use.direct = 0
        use.doublings = min(use.doublings + 1, <u32>DOUBLINGS_MAX)
        c.n_direct_backs += 1
    elif use.doublings:
        use.doublings -= 1
    begin_period(use)


cdef void policy_refused(CpuState* c) noexcept nogil:
    cdef Use* use = use_of(c, &(<DirectState*>c.direct).policy)
    use.direct = 0
    use.doublings = DOUBLINGS_MAX
    begin_period(use)
    c.direct_held = 1
