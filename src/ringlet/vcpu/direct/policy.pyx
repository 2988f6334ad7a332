"""Which address spaces run their code of CPL 3 directly.

A direct process runs code at the host's speed, but each trap costs two switches between processes,
and all that the program touches faults once more there.  Translated code is slower and traps for
little, but it has to be made, or at least installed.  For a short program that costs as much as
the traps do.  So every program begins directly.  It goes back when it has little time between its
traps, and changes over again when that time is worth it.

Time at CPL 3 under translation is sampled: each interrupt counts the time since the last one for
the space that it interrupts.  For a direct process the host keeps it.  Both are processor time,
since other processes of a busy host delay each switch.
"""
from ringlet.core.state cimport CpuState, u32, u64
from ringlet.direct.placement cimport placement_tick
from ringlet.direct.process cimport direct_again, direct_cpu_ns, own_cpu_ns
from ringlet.mmu.mmu cimport mmu_direct, mmu_program, mmu_space
from ringlet.vcpu.direct.target cimport USES, DirectSpace, DirectState, Policy, Use, space_of

cdef enum:
    PERIOD_NS = 6000000      # at CPL 3, after which a translated space is considered
    WORTH_NS = 10000         # translated between traps
    PERIOD_RETURNS = 512     # to CPL 3, after which a direct space is considered
    PINGS = 8                # hand-overs and back, to see what the host takes for them now
    WORTH_SWITCHES = 3       # such hand-overs that the time from trap to trap is worth
    DOUBLINGS_MAX = 6


cdef inline Use* use_of(CpuState* c, Policy* p) noexcept nogil:
    cdef u32 space = mmu_space(c, 0)
    cdef u32 program = mmu_program(c)
    cdef Use* use = &p.uses[space & (USES - 1)]
    if use.space != space or use.program != program:
        use.space = space
        use.program = program
        use.direct = 1
        use.returns = use.doublings = 0
        use.user = 0
    return use


cdef void reconsider(CpuState* c, Policy* p, Use* use) noexcept nogil:
    """Change a direct space back if it traps too often."""
    cdef DirectSpace* s = space_of(mmu_direct(c))
    cdef u64 now, spent, switches
    cdef int i
    use.returns = 0
    if s == NULL or s.dead:
        return
    now = direct_cpu_ns(s.process)
    spent = (now - s.considered) // PERIOD_RETURNS
    for i in range(PINGS):
        if not direct_again(s.process):
            s.dead = 1
            return
    s.considered = direct_cpu_ns(s.process)
    switches = (s.considered - now) // PINGS
    if spent >= WORTH_SWITCHES * switches:
        if use.doublings:
            use.doublings -= 1
        return
    use.direct = 0
    use.user = 0
    use.doublings = min(use.doublings + 1, <u32>DOUBLINGS_MAX)
    c.n_direct_backs += 1


cdef void policy_returns(CpuState* c) noexcept nogil:
    cdef Policy* p = &(<DirectState*>c.direct).policy
    cdef Use* use = use_of(c, p)
    use.returns += 1
    if use.direct and use.returns >= PERIOD_RETURNS and not p.always:
        reconsider(c, p, use)
    c.direct_held = not use.direct


cdef void policy_interrupt(CpuState* c) noexcept nogil:
    cdef DirectState* all = <DirectState*>c.direct
    cdef Policy* p = &all.policy
    cdef u64 now, spent
    cdef Use* use
    placement_tick(&all.placement)
    if p.always:
        return
    now = own_cpu_ns()
    spent = now - p.sampled
    p.sampled = now
    if c.arch.cpl != 3:
        return
    use = use_of(c, p)
    if use.direct:
        return
    use.user += spent
    if use.user < <u64>PERIOD_NS << use.doublings:
        return
    if use.user > <u64>WORTH_NS * use.returns:
        use.direct = 1
        c.n_direct_spaces += 1
    use.returns = 0
    use.user = 0


cdef void policy_refused(CpuState* c) noexcept nogil:
    cdef Use* use = use_of(c, &(<DirectState*>c.direct).policy)
    use.direct = 0
    use.doublings = DOUBLINGS_MAX
    use.returns = 0
    use.user = 0
    c.direct_held = 1
