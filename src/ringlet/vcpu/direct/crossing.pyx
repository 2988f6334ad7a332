"""Crossing to a direct process and back.

The guest's state is written to the signal frame from which the process goes on, and read from the
frame of its next trap.  System calls, page faults and requests to stop are seen to here.  Whatever
else stops the process, translated code performs the instruction at RIP, with its exact exception.
"""
from ringlet.core.state cimport *
from ringlet.core.host cimport host_fence
from ringlet.core.prod cimport prod_arm, prod_disarm
from ringlet.core.ops cimport OP_SYSCALL
from ringlet.direct.placement cimport placement_begins, placement_ended
from ringlet.direct.process cimport (
    Direct, DIRECT_END, DIRECT_STACK, DIRECT_STACK_SIZE, DIRECT_STUB, FRAME_CR2, FRAME_ERROR,
    FRAME_FLAGS, FRAME_R8, FRAME_RAX, FRAME_RBP, FRAME_RBX, FRAME_RCX, FRAME_RDI, FRAME_RDX,
    FRAME_RIP, FRAME_RSI, FRAME_RSP, FRAME_SELECTORS, FRAME_TRAP, FRAME_XSAVE, USER_CODE,
    USER_CODE_32, USER_DATA, direct_frame, direct_resume, direct_signal, direct_stack, direct_wait)
from ringlet.mmu.mmu cimport (
    mmu_read, mmu_direct, mmu_direct_attach, mmu_direct_crowded, mmu_direct_fault,
    mmu_direct_leave, mmu_direct_yield)
from ringlet.mmu.pages cimport PAGE_SHIFT
from ringlet.vcpu.debug.registers cimport single_step
from ringlet.vcpu.direct.policy cimport policy_refused
from ringlet.vcpu.direct.target cimport (
    DirectSpace, DirectState, MAPS_MAX, space_begin, space_find, space_lose, space_of,
    space_renew, space_wanted)
from ringlet.vcpu.system.control cimport update_key, update_key_privilege
from ringlet.vcpu.system.descriptors cimport (
    DESC_OK, Descriptor, descriptor_in_ram, load_cache, read_descriptor)
from ringlet.vcpu.system.dispatch cimport emulate
from ringlet.vcpu.system.host_fpu cimport AREA_FDP, AREA_FIP, AREA_FOP
from ringlet.vcpu.system.registers cimport AR_CODE, CR0_AM, CR4_TSD
from ringlet.vcpu.system.segments cimport load_segment
from ringlet.vcpu.system.x87 cimport (
    FPU_DATA, FPU_INSTRUCTION, guest_opcode, guest_pointer, load_pointer)

cdef extern from * nogil:
    """
    static inline void ringlet_save_vectors(void *area)
    { __asm__ volatile("xsave64 (%0)" :: "r"(area), "a"(7), "d"(0) : "memory"); }
    static inline void ringlet_load_vectors(const void *area)
    { __asm__ volatile("xrstor64 (%0)" :: "r"(area), "a"(7), "d"(0) : "memory"); }
    """
    void ringlet_save_vectors(void* area)
    void ringlet_load_vectors(const void* area)

cdef enum:
    SIG_TRAP = 5
    SIG_KILL = 9
    SIG_SEGV = 11
    SIG_URG = 23
    SIG_SYS = 31
    USER_FLAGS = 0x244DD5        # RFLAGS that CPL 3 can change: arithmetic, TF, DF, NT, AC, ID
    # A save area of our own, in place of the kernel's: 832 bytes and what says so.
    VECTORS_AT = 0x2000          # on the stack, behind a first frame
    AREA_BYTES = 464             # struct _fpx_sw_bytes
    AREA_BV = 512
    AREA_SIZE = 832
    MAGIC1 = 0x46505853
    MAGIC2 = 0x46505845
    SIGINFO = 304 + 8            # in the frame
    CONTEXT = 8 + 40             # registers in the frame
    ARCH_X86_64 = 0xC000003E
    VSYSCALL = 0xFFFFFFFFFF600000
    TRAP_TRACE = 2               # si_code
    INSTRUCTION_MAX = 15
    TRIES_MAX = 500              # to stop a process, 10 ms apart
    STUCK_MAX = 64               # page faults of one instruction: a gather makes 16 at most
    INT1 = 0xF1
    CODE_32 = AR_S | AR_P | AR_DB | AR_CODE | 3 << 5    # of CPL 3


cdef void put_vectors(CpuState* c, Direct* d) noexcept nogil:
    """Leave the vector state, which is live, where the process takes it from."""
    cdef u8* area = direct_stack(d) + VECTORS_AT
    cdef u64* header = <u64*>(area + AREA_BV)
    cdef u32* words = <u32*>(area + AREA_BYTES)
    cdef u64* fip = <u64*>(area + AREA_FIP)
    cdef u64* fdp = <u64*>(area + AREA_FDP)
    cdef u16* fop = <u16*>(area + AREA_FOP)
    cdef int i
    for i in range(8):
        header[i] = 0
    ringlet_save_vectors(area)
    if header[0] & 1:
        fop[0] = guest_opcode(c, fip[0], fop[0])
        fip[0] = guest_pointer(c, fip[0], FPU_INSTRUCTION)
        fdp[0] = guest_pointer(c, fdp[0], FPU_DATA)
    words[0] = MAGIC1
    words[1] = AREA_SIZE + 4
    words[2] = 7
    words[3] = 0
    words[4] = AREA_SIZE
    (<u32*>(area + AREA_SIZE))[0] = MAGIC2
    d.registers[FRAME_XSAVE] = DIRECT_STACK + VECTORS_AT


cdef bint take_vectors(CpuState* c, Direct* d) noexcept nogil:
    """Load the vector state that the kernel saved; False: it is not where it can be."""
    cdef u64 at = d.registers[FRAME_XSAVE] - DIRECT_STACK
    cdef u8* area
    cdef u64* header
    cdef u64* fip
    cdef u64* fdp
    cdef int i
    if at & 63 or at > <u64>(DIRECT_STACK_SIZE - AREA_SIZE):
        return False
    area = direct_stack(d) + at
    header = <u64*>(area + AREA_BV)
    fip = <u64*>(area + AREA_FIP)
    fdp = <u64*>(area + AREA_FDP)
    # The guest's code can have written all of it.
    header[0] &= 7
    for i in range(1, 8):
        header[i] = 0
    (<u32*>(area + 24))[0] &= 0xFFFF
    # The size of the host's vector state is none of the program's business.
    for i in range(6):
        (<u64*>(area + AREA_BYTES))[i] = 0
    if header[0] & 1:
        fip[0] = load_pointer(c, fip[0], FPU_INSTRUCTION)
        fdp[0] = load_pointer(c, fdp[0], FPU_DATA)
    ringlet_load_vectors(area)
    return True


cdef inline u64 selectors_of(CpuState* c) noexcept nogil:
    return (c.arch.seg[SEG_DS].selector | <u64>c.arch.seg[SEG_ES].selector << 16
            | <u64>c.arch.seg[SEG_FS].selector << 32 | <u64>c.arch.seg[SEG_GS].selector << 48)


cdef void put_registers(CpuState* c, Direct* d) noexcept nogil:
    cdef u64* f = d.registers
    cdef int i
    for i in range(8):
        f[FRAME_R8 + i] = c.arch.gpr[8 + i]
    f[FRAME_RDI] = c.arch.gpr[RDI]
    f[FRAME_RSI] = c.arch.gpr[RSI]
    f[FRAME_RBP] = c.arch.gpr[RBP]
    f[FRAME_RBX] = c.arch.gpr[RBX]
    f[FRAME_RDX] = c.arch.gpr[RDX]
    f[FRAME_RAX] = c.arch.gpr[RAX]
    f[FRAME_RCX] = c.arch.gpr[RCX]
    f[FRAME_RSP] = c.arch.gpr[RSP]
    f[FRAME_RIP] = c.arch.rip
    # No instruction breakpoint is set, which RF could hold off.
    c.arch.rflags &= ~<u64>FLAG_RF
    f[FRAME_FLAGS] = c.arch.rflags & USER_FLAGS | 0x202
    if not c.arch.cr0 & CR0_AM:
        f[FRAME_FLAGS] &= ~<u64>FLAG_AC
    f[FRAME_SELECTORS] = USER_CODE | <u64>USER_DATA << 48
    d.control.fs_base = c.arch.seg[SEG_FS].base
    d.control.gs_base = c.arch.seg[SEG_GS].base
    d.control.selectors = selectors_of(c)


cdef void take_selectors(CpuState* c, u64 selectors) noexcept nogil:
    """Load the selectors that the code has loaded.  Where the guest's tables do not allow one, the
    segment stays.  No device is asked for a descriptor: here is no instruction that could wait."""
    cdef u32 order[4]
    cdef u32 i, selector
    if selectors == selectors_of(c):
        return
    order[0] = SEG_DS
    order[1] = SEG_ES
    order[2] = SEG_FS
    order[3] = SEG_GS
    for i in range(4):
        selector = <u32>(selectors >> 16 * i) & 0xFFFF
        if selector != c.arch.seg[order[i]].selector and descriptor_in_ram(c, selector):
            load_segment(c, order[i], selector)


cdef bint take_code(CpuState* c, u32 selector) noexcept nogil:
    """Load the code segment that a far transfer has loaded.  False: the guest has no such segment.
    32-bit code goes on as translated code does."""
    cdef Descriptor d
    if selector == USER_CODE:
        return True
    if selector != USER_CODE_32 or not descriptor_in_ram(c, selector) \
            or read_descriptor(c, selector, &d) != DESC_OK \
            or d.ar & (CODE_32 | AR_L) != CODE_32:
        return False
    load_cache(&c.arch.seg[SEG_CS], &d, selector)
    update_key(c)
    return True


cdef void take_registers(CpuState* c, Direct* d) noexcept nogil:
    cdef u64* f = d.registers
    cdef u64 mask = USER_FLAGS if c.arch.cr0 & CR0_AM else USER_FLAGS & ~<u64>FLAG_AC
    cdef int i
    for i in range(8):
        c.arch.gpr[8 + i] = f[FRAME_R8 + i]
    c.arch.gpr[RDI] = f[FRAME_RDI]
    c.arch.gpr[RSI] = f[FRAME_RSI]
    c.arch.gpr[RBP] = f[FRAME_RBP]
    c.arch.gpr[RBX] = f[FRAME_RBX]
    c.arch.gpr[RDX] = f[FRAME_RDX]
    c.arch.gpr[RAX] = f[FRAME_RAX]
    c.arch.gpr[RCX] = f[FRAME_RCX]
    c.arch.gpr[RSP] = f[FRAME_RSP]
    c.arch.rip = f[FRAME_RIP]
    c.arch.rflags = c.arch.rflags & ~mask | f[FRAME_FLAGS] & mask
    if c.arch.rflags & FLAG_TF:
        update_key_privilege(c)
    take_selectors(c, d.control.selectors)
    if is_canonical(d.control.fs_base):
        c.arch.seg[SEG_FS].base = d.control.fs_base
    if is_canonical(d.control.gs_base):
        c.arch.seg[SEG_GS].base = d.control.gs_base


cdef inline bint loads_as_is(u32 selector) noexcept nogil:
    """The host's descriptor table has the same segment, or none is needed."""
    return selector <= 3 or selector == USER_DATA


cdef bint eligible(CpuState* c) noexcept nogil:
    """The host's processor does the same with the guest's code as the virtual one.

    In the key are the mode, CPL 3, no steps or breakpoints, and x87, SSE and AVX as the host has
    them.
    """
    return (c.key == (KEY_MODE64 | 3) and not c.arch.inhibit and not c.arch.db_pending
            and not c.arch.tsc_offset and not c.arch.cr4 & CR4_TSD
            and c.arch.seg[SEG_CS].selector == USER_CODE
            and c.arch.seg[SEG_SS].selector == USER_DATA
            and loads_as_is(c.arch.seg[SEG_DS].selector)
            and loads_as_is(c.arch.seg[SEG_ES].selector)
            and loads_as_is(c.arch.seg[SEG_FS].selector)
            and loads_as_is(c.arch.seg[SEG_GS].selector)
            and c.arch.iflag and not c.arch.rflags & FLAG_IOPL and not c.arch.rip >> 47)


cdef int hold(CpuState* c) noexcept nogil:
    """Go on with translated code until CPL 3 is entered anew."""
    c.n_direct_holds += 1
    c.direct_held = 1
    return CROSS_NOT


cdef inline bint at_cpuid(CpuState* c) noexcept nogil:
    cdef u8[2] bytes
    return (mmu_read(c, c.arch.rip, bytes, 2, ACC_USER | ACC_FETCH) == MEM_OK
            and bytes[0] == 0x0F and bytes[1] == 0xA2)


cdef int step(CpuState* c) noexcept nogil:
    """Carry out the instruction at RIP by translated code.

    CPUID comes in series, of sixty in the dynamic loader, so that it is worth a hold.
    """
    if at_cpuid(c):
        return hold(c)
    c.n_direct_steps += 1
    (<DirectState*>c.direct).step = 1
    return CROSS_AGAIN


cdef int refuse(CpuState* c, DirectSpace* s) noexcept nogil:
    """The process is dead, or no more what it should be.  The program goes on translated, from
    where it was."""
    space_lose(c, s)
    mmu_direct_leave(c)
    policy_refused(c)
    return CROSS_NOT


cdef int attacked(CpuState* c, DirectSpace* s) noexcept nogil:
    """The process has left its code for ours: the program gets a fault."""
    refuse(c, s)
    raise_err(c, VEC_GP, 0)
    return CROSS_RAISED


cdef int spoiled(CpuState* c, DirectSpace* s) noexcept nogil:
    """The program that was there before has left the process in an odd state.  This one has done
    nothing yet, and begins in another process."""
    space_lose(c, s)
    mmu_direct_leave(c)
    return CROSS_AGAIN


cdef inline u32* siginfo(Direct* d) noexcept nogil:
    """Return struct siginfo, which follows the context in the frame, as words."""
    return <u32*>(<u8*>d.registers - CONTEXT + SIGINFO)


cdef void wipe_siginfo(Direct* d) noexcept nogil:
    """A signal that stops the process names the sender, which is of the host."""
    cdef u32* word = siginfo(d)
    cdef u32 i
    for i in range(32):
        word[i] = 0


cdef int away(CpuState* c) noexcept nogil:
    """RIP is an address of the host's, behind one of its ways into the kernel.  The guest does not
    get it."""
    c.arch.rip = 0
    raise_err(c, VEC_GP, 0)
    return CROSS_RAISED


cdef int compatible_call(CpuState* c) noexcept nogil:
    """INT 80h, or SYSENTER, which only a jump into the middle of an instruction reaches."""
    cdef u8[2] bytes
    c.arch.rip -= 2
    if mmu_read(c, c.arch.rip, bytes, 2, ACC_USER) == MEM_OK and bytes[0] == 0xCD \
            and bytes[1] == 0x80:
        return step(c)
    return away(c)


cdef int system_call(CpuState* c, Direct* d) noexcept nogil:
    cdef OpInfo op
    cdef u64 called_at = (<u64*>siginfo(d))[2]
    if siginfo(d)[7] != ARCH_X86_64:
        return compatible_call(c)
    if called_at >> PAGE_SHIFT == VSYSCALL >> PAGE_SHIFT:
        # Linux has returned from its vsyscall page.  The guest has one of its own, or none.
        c.arch.gpr[RSP] -= 8
        c.arch.rip = called_at
        return CROSS_AGAIN
    c.arch.rip -= 2
    op.rip = c.arch.rip
    op.op = OP_SYSCALL
    op.length = 2
    op.size = 8
    op.seg = SEG_NONE
    op.flags = 0
    op.imm = op.resume = 0
    c.n_direct_calls += 1
    return CROSS_RAISED if emulate(c, &op) == EMU_FAULT else CROSS_AGAIN


cdef bint stuck(CpuState* c, DirectState* all) noexcept nogil:
    """Tell whether page faults have come again and again without progress: of an instruction that
    writes to its own page by another address, which takes away the right to execute it."""
    cdef u64* last = &all.stuck[0]
    if last[0] == c.arch.rip and last[1] == c.arch.gpr[RCX] and last[2] == c.arch.gpr[RSI] \
            and last[3] == c.arch.gpr[RDI]:
        all.stuck_count += 1
    else:
        all.stuck_count = 0
    last[0] = c.arch.rip
    last[1] = c.arch.gpr[RCX]
    last[2] = c.arch.gpr[RSI]
    last[3] = c.arch.gpr[RDI]
    return all.stuck_count > STUCK_MAX


cdef int page_fault(CpuState* c, Direct* d) noexcept nogil:
    cdef u64 linear = d.registers[FRAME_CR2]
    cdef u32 access = <u32>d.registers[FRAME_ERROR] & (ACC_WRITE | ACC_FETCH)
    cdef u64 page = linear >> PAGE_SHIFT
    cdef int r
    c.n_direct_faults += 1
    if access & ACC_WRITE and (page == c.arch.rip >> PAGE_SHIFT
                               or page == (c.arch.rip + INSTRUCTION_MAX - 1) >> PAGE_SHIFT):
        # A page is never writable and executable at once, so that this would go on forever.
        return hold(c)
    if stuck(c, <DirectState*>c.direct):
        return hold(c)
    r = mmu_direct_fault(c, linear, access)
    if r == MEM_OK:
        return CROSS_AGAIN
    return CROSS_RAISED if r == MEM_FAULT else hold(c)


cdef bint int1_stays(CpuState* c, DirectState* all) noexcept nogil:
    """Tell whether RIP is that of INT1, and not behind it.  That depends on the host, whose way is
    learned where only one of the two bytes is INT1."""
    cdef u8 last = 0, here = 0
    mmu_read(c, c.arch.rip - 1, &last, 1, ACC_USER)
    mmu_read(c, c.arch.rip, &here, 1, ACC_USER)
    if (last == INT1) != (here == INT1):
        all.int1_stays = here == INT1
    return all.int1_stays


cdef int trap_after(CpuState* c, Direct* d, u64 vector) noexcept nogil:
    """The host has carried out an instruction and then trapped: a single step, or INT1, INT3, INT 3
    or INT 4, before which RIP is put back."""
    cdef u8 last = 0
    if vector == VEC_DB and siginfo(d)[2] == TRAP_TRACE:
        single_step(c)
        return CROSS_RAISED
    if vector == VEC_DB and int1_stays(c, <DirectState*>c.direct):
        return step(c)
    if vector == VEC_OF or (vector == VEC_BP and mmu_read(c, c.arch.rip - 1, &last, 1, ACC_USER)
                            == MEM_OK and last == VEC_BP):
        c.arch.rip -= 2
    else:
        c.arch.rip -= 1
    return step(c)


cdef int trapped(CpuState* c, Direct* d) noexcept nogil:
    """See to a trap.  What the process says of it can be forged, but only to what the program could
    cause itself."""
    cdef u32 sig = d.control.signal
    if sig == SIG_SYS and c.arch.rip >= 2 and not c.arch.rip >> 47:
        return system_call(c, d)
    if sig == SIG_SEGV and d.registers[FRAME_TRAP] == VEC_PF \
            and is_canonical(d.registers[FRAME_CR2]):
        return page_fault(c, d)
    if (sig == SIG_TRAP or sig == SIG_SEGV) \
            and (d.registers[FRAME_TRAP] == VEC_DB or d.registers[FRAME_TRAP] == VEC_BP
                 or d.registers[FRAME_TRAP] == VEC_OF):
        return trap_after(c, d, d.registers[FRAME_TRAP])
    return CROSS_AGAIN if sig == SIG_URG else step(c)


cdef int run(CpuState* c, DirectState* all, DirectSpace* s) noexcept nogil:
    cdef Direct* d = s.process
    cdef bint stopped
    wipe_siginfo(d)
    put_registers(c, d)
    put_vectors(c, d)
    d.control.signal = 0
    d.control.failed = 0
    c.direct_tries = 0
    c.direct_pidfd = d.pidfd
    host_fence()
    if c.attention:
        # Nothing has gone to the process yet.
        c.direct_pidfd = 0
        return CROSS_AGAIN
    c.n_direct_runs += 1
    placement_begins(&all.placement, d)
    direct_resume(d)
    stopped = direct_wait(d)
    placement_ended(c, &all.placement, d)
    c.direct_pidfd = 0
    host_fence()
    if c.prodding:
        prod_disarm(c)
    if not stopped or not d.control.signal:
        return refuse(c, s)
    if not direct_frame(d) or d.registers[FRAME_RIP] - DIRECT_STUB < DIRECT_END - DIRECT_STUB:
        return spoiled(c, s) if s.fresh else attacked(c, s)
    s.fresh = 0
    if not is_canonical(d.registers[FRAME_RIP]) or not take_vectors(c, d) \
            or not take_code(c, d.registers[FRAME_SELECTORS] & 0xFFFF):
        return attacked(c, s)
    take_registers(c, d)
    if d.registers[FRAME_SELECTORS] & 0xFFFF == USER_CODE_32 and c.arch.rip >> 32:
        # SYSCALL in 32-bit code, with a bad stack: Linux goes on where its vDSO would be.
        return away(c)
    return trapped(c, d)


cdef int cross(CpuState* c) noexcept nogil:
    cdef DirectState* all = <DirectState*>c.direct
    cdef DirectSpace* s
    if not eligible(c):
        return CROSS_NOT
    s = space_of(mmu_direct(c))
    if s != NULL and s.dead:
        return spoiled(c, s) if s.fresh else refuse(c, s)
    if s != NULL and s.maps > MAPS_MAX:
        mmu_direct_crowded(c)
        s.maps = 0
        s = NULL
    if s == NULL:
        s = space_find(c, all)
        if s == NULL and not space_wanted(c, all) and mmu_direct_yield(c):
            s = space_find(c, all)
        if s == NULL and space_wanted(c, all):
            return CROSS_MAKE
        if s == NULL:
            policy_refused(c)
            return CROSS_NOT
        space_begin(c, s)
        mmu_direct_attach(c, &s.target)
    space_renew(c, s)
    return run(c, all, s)


cdef void direct_stop(CpuState* c) noexcept nogil:
    """Pass a request to stop on to the direct process that the thread waits for.  Kill a process
    that does not stop.  On a busy host it may have to wait for a processor first."""
    c.direct_tries += 1
    direct_signal(c.direct_pidfd, SIG_KILL if c.direct_tries > TRIES_MAX else SIG_URG)
    prod_arm(c)
