"""Host faults of translated code.

This code runs in the signal handler: no allocation, no lock, no Python.  After a page fault inside
a window, the page is mapped from the guest's page tables, or the guest gets a #PF.  A fault outside
all windows comes from an unused slot or is the guest's #GP.  All others are the guest's own
exceptions.  The guest's state is exact, because every translation performs its memory access before
it changes anything (docs/adr/0001).

The handler resumes a fragment only at the instruction that faulted, so that the access is performed
after all.  The one exception is a probe of RSP, which may be skipped (`probe_fault`).  The
translator relies on this: code that follows any other access may assume that it was performed.
"""
from ringlet.core.state cimport *
from ringlet.core.signals cimport *
from ringlet.core.template cimport PROBE_SIZE, STUB_ENTER, STUB_LEAVE, is_probe
from ringlet.cache.codecache cimport Cache, Fragment, NONE
from ringlet.cache.exits cimport exits_cut
from ringlet.cache.fragment_map cimport cache_fragment_at, cache_guest_offset, cache_is_boundary
from ringlet.core.prod cimport prod_arm
from ringlet.mmu.mmu cimport (
    mmu_is_window, mmu_linear_of, mmu_shadow_fault, mmu_slot_fault, mmu_slot_open, ram_host)
from ringlet.vcpu.direct.crossing cimport direct_stop
from ringlet.vcpu.loop.accesses cimport Access, accesses
from ringlet.vcpu.system.registers cimport CR4_OSXMMEXCPT
from ringlet.vcpu.system.x87 cimport FPU_DATA, FPU_OPCODE, X87_NONE, x87_opcode
from ringlet.translate.insn cimport *
from ringlet.translate.shape cimport *

cdef enum:
    HOST_TF = 0x100
    HOST_DF = 0x400
    HOST_AC = 0x40000
    LOW_END = 0x800000000000   # the end of the lower half of the canonical addresses
    HIGH32 = 0x100000000
    SIG_TRAP = 5
    SIG_URG = 23


cdef bint unbias_string(CpuState* c, u64* regs) noexcept nogil:
    """Restore the guest's RSI, RDI and RCX if a string instruction faulted; True: one did.

    Around a translated string instruction RSI and RDI hold host addresses, and RCX a part of the
    count.
    """
    cdef const u8* p = <const u8*>regs[HR_RIP]
    while p[0] == 0xF3 or p[0] == 0xF2 or p[0] == 0x66 or p[0] == 0x48:
        p += 1
    if not (0xA4 <= p[0] <= 0xA7 or 0xAA <= p[0] <= 0xAF):
        return False
    if p[0] <= 0xA7 or (p[0] & 0xFE) == 0xAC:
        regs[HR_RSI] += c.scratch[0]
    if (p[0] & 0xFE) != 0xAC:
        regs[HR_RDI] += c.scratch[1]
    regs[HR_RCX] += c.string_rest
    c.string_rest = 0
    return True


cdef bint is_repeated_string(u64 rip) noexcept nogil:
    cdef const u8* p = <const u8*>rip
    cdef bint repeats = False
    while p[0] == 0xF3 or p[0] == 0xF2 or p[0] == 0x66 or p[0] == 0x48:
        repeats |= p[0] == 0xF3 or p[0] == 0xF2
        p += 1
    return repeats and (0xA4 <= p[0] <= 0xA7 or 0xAA <= p[0] <= 0xAF)


cdef int leave(CpuState* c, HostFault* f, Fragment* frag, u32 guest, u32 code) noexcept nogil:
    """Make the handler return to the dispatcher with the guest's state before its instruction."""
    if code == LEAVE_EMULATE:
        # Take the bytes that were translated: the guest may have changed its page tables since.
        guest_bytes(c, frag, guest, c.insn)
    unbias_string(c, f.regs)
    save_registers(c, f.regs)
    c.arch.rip = frag.rip + guest
    narrowed(c, frag.key)
    c.exit_code = code
    c.completing = 0
    f.regs[HR_RIP] = c.stub[STUB_LEAVE]
    f.regs[HR_RSP] = c.host_rsp
    f.regs[HR_EFL] &= ~<u64>(HOST_TF | HOST_DF | HOST_AC)
    return 1


cdef int raise_here(CpuState* c, HostFault* f, Fragment* frag, u32 guest, u32 vector,
                    bint has_error) noexcept nogil:
    if has_error:
        raise_err(c, vector, 0)
    else:
        raise_exc(c, vector)
    return leave(c, f, frag, guest, LEAVE_FAULT)


cdef inline u64 bound(CpuState* c, u64 linear) noexcept nogil:
    """Return the host address that the slot table gives for a linear address."""
    cdef u64 table = c.block + (BLOCK_SLOTS_U if c.arch.cpl == 3 else BLOCK_SLOTS_K)
    return linear + (<u64*>table)[(linear >> SLOT_SHIFT) & 0xFFFF]


cdef inline bint slot_live(CpuState* c, u64 linear) noexcept nogil:
    return bound(c, linear) >> 47 == 0


cdef inline bint window_live(CpuState* c) noexcept nogil:
    """Whether 16- and 32-bit code has a window."""
    return c.low_host[c.arch.cpl == 3] >> 47 == 0


cdef bint bound_elsewhere(CpuState* c, HostFault* f, Insn* i, bint stack) noexcept nogil:
    """Whether the addend belongs to another slot than the operand's, and that slot is unused.

    The addend is looked up for one part of the address: RSP, another register, the base of FS or
    GS, or the displacement.  RSP may have moved to another slot since it was bound.
    """
    cdef u32 base = insn_base(i)
    cdef u64 rsp = f.regs[HR_RSP] + c.rsp_naddend
    if (stack or base == RSP) and (not slot_live(c, rsp) or bound(c, rsp) != f.regs[HR_RSP]):
        return True
    if i.modrm >= 0xC0 or not i.shape.mem or i.rip_relative:
        return False
    if i.seg == SEG_FS or i.seg == SEG_GS:
        return not slot_live(c, c.arch.seg[i.seg].base)
    return not slot_live(c, <u64><i64>i.disp if base == NO_REG else c.arch.gpr[base])


cdef inline bint window_unused(HostFault* f) noexcept nogil:
    """Whether an addend in the fragment's two windows may be that of an unused slot.

    A register bound in such a slot may have moved to another one, as long as its accesses were not
    performed.  A copy of a guest's register may look like such an addend; then the instruction is
    only repeated and emulated.
    """
    return f.regs[HR_R10] >> 47 != 0 or f.regs[HR_R11] >> 47 != 0


cdef inline bint lane_faults(Insn* i, u64 linear) noexcept nogil:
    """Whether only the emulator can tell which exception the access raises.

    A masked move accesses only some of its lanes, and a vector that must be aligned raises #GP
    before any #PF or #SS.
    """
    cdef u32 size = i.shape.mem_size
    return i.shape.mem & MEM_LANES or ((size == 16 or size == 32) and linear & (size - 1))


cdef bint guest_bytes(CpuState* c, Fragment* frag, u32 guest, u8* out) noexcept nogil:
    """Read the guest's instruction bytes at offset `guest` of the fragment."""
    cdef u64 at = (frag.linear & 0xFFF) + guest
    cdef u8* page
    cdef u32 k
    for k in range(16):
        page = ram_host(c, frag.phys[1] if at + k >= 4096 else frag.phys[0])
        if page == NULL:
            return False
        out[k] = page[(at + k) & 0xFFF]
    return True


cdef int leave_saved(CpuState* c, HostFault* f, Fragment* frag, u32 guest, u32 code) noexcept nogil:
    """Do what `leave` does after `unbias_string`: RSI and RDI are the guest's already."""
    cdef u64 source = c.scratch[0], target = c.scratch[1]
    c.scratch[0] = 0
    c.scratch[1] = 0
    leave(c, f, frag, guest, code)
    c.scratch[0] = source
    c.scratch[1] = target
    return 1


cdef int resumed(CpuState* c, HostFault* f, Cache* k, u32 index) noexcept nogil:
    """Return to the access that faulted, which can be performed now."""
    if k.fragments[index].dead:
        # The instruction stores to the code of its own fragment: finish it, then leave.
        c.completing = 1 + index
        f.regs[HR_EFL] |= HOST_TF
    return 1


cdef int probe_fault(CpuState* c, HostFault* f, Cache* k, u32 index, u32 guest) noexcept nogil:
    """Handle the fault of a probe of RSP, which is not an access of the guest.

    The fragment continues only if the host's RSP is the guest's RSP plus the addend in the slot
    table, as if it were bound here: the code that follows relies on that.  Otherwise the fragment
    is left before the current instruction.  The next fragment begins with that instruction and
    binds RSP, so no probe precedes it.
    """
    cdef Fragment* frag = &k.fragments[index]
    cdef u64 linear = 0, rsp = f.regs[HR_RSP] + c.rsp_naddend
    cdef u32 access = ACC_READ | (ACC_USER if c.arch.cpl == 3 else 0)
    if f.trap == VEC_PF and mmu_shadow_fault(c, f.address, ACC_READ, &linear) == MEM_OK:
        return resumed(c, f, k, index)
    if is_canonical(rsp) and not slot_live(c, rsp):
        # If the guest maps something in this slot, bind RSP to the slot.
        mmu_slot_fault(c, rsp, access)
    if bound(c, rsp) == f.regs[HR_RSP] and not frag.dead:
        f.regs[HR_RIP] += PROBE_SIZE
        return 1
    # A fragment of one stepped instruction has its only probe after the instruction.
    return leave(c, f, frag, guest, LEAVE_STEPPED if frag.key & KEY_STEP else LEAVE_AGAIN)


cdef inline u32 to_emulator(CpuState* c, Fragment* frag) noexcept nogil:
    """Leave for the emulator an instruction that could make the same access directly."""
    c.met_device = 1 + <u32>(frag - (<Cache*>c.cache).fragments)
    return LEAVE_EMULATE


cdef u32 retried(CpuState* c, Fragment* frag, u64 rip) noexcept nogil:
    """Return how to leave where a binding is stale or an access straddles slots.

    The second time in a row at the same RIP, the emulator performs the instruction.  It may be one
    that never succeeds: its address is in another slot than its base, as that of Linux's accesses
    to the local APIC is.
    """
    if c.again == rip:
        c.again = 0
        return to_emulator(c, frag)
    c.again = rip
    return LEAVE_AGAIN


cdef int gather_fault(CpuState* c, HostFault* f, Fragment* frag, u32 guest,
                      Insn* i) noexcept nogil:
    """Handle a fault of a gather outside all windows: only the emulator knows the lane.

    The addend is that of the base's slot.  If this slot is unused it gets a window, in which the
    lanes then fault one by one.
    """
    cdef u32 base = insn_base(i)
    cdef u64 linear = <u64><i64>i.disp
    if base != NO_REG:
        linear = c.arch.gpr[base]
        if not is_near(i.disp):
            linear += <u64><i64>i.disp
    if f.trap != VEC_AC and is_canonical(linear) and not slot_live(c, linear) \
            and mmu_slot_open(c, linear):
        return leave(c, f, frag, guest, LEAVE_AGAIN)
    return leave(c, f, frag, guest, LEAVE_EMULATE)


cdef int beyond_window(CpuState* c, HostFault* f, Fragment* frag, u32 guest) noexcept nogil:
    """Handle a fault of 16- or 32-bit code outside all windows, or an #AC.

    All of its linear addresses are in one slot.  If that has a window, FS or GS is not flat, or the
    access is misaligned: the emulator raises what is due.
    """
    if not window_live(c) and mmu_slot_open(c, 0):
        return leave(c, f, frag, guest, LEAVE_AGAIN)
    return leave(c, f, frag, guest, LEAVE_EMULATE)


cdef int unused_slot(CpuState* c, HostFault* f, Fragment* frag, u32 guest) noexcept nogil:
    """Handle a fault outside all windows, or an #AC.

    The address lies in an unused slot or is not canonical, or the #GP has another cause.  An #AC
    may hide a fault of higher priority: the host checks the address in a window, which is canonical
    even where the guest's is not.
    """
    cdef Insn i
    cdef u8 code[16]
    cdef Access at[3]
    cdef u32 n, k, user = ACC_USER if c.arch.cpl == 3 else 0
    cdef int r
    if not frag.key & KEY_MODE64:
        return beyond_window(c, f, frag, guest)
    if not guest_bytes(c, frag, guest, code):
        return 0
    r = decode(shapes_of(c, frag.key), code, 16, &i)
    if r == DECODE_LEARN:
        # The fragment came from a kept translation, so this run has not learned the shape.
        c.exit_arg = <u64>(frag - (<Cache*>c.cache).fragments)
        return leave(c, f, frag, guest, LEAVE_UNKNOWN)
    if r != DECODE_OK:
        return raise_here(c, f, frag, guest, VEC_AC if f.trap == VEC_AC else VEC_GP, True)
    unbias_string(c, f.regs)
    save_registers(c, f.regs)
    if i.shape.kind == SHAPE_GATHER:
        return gather_fault(c, f, frag, guest, &i)
    n = accesses(c, &i, frag.rip + guest, at)
    for k in range(n):
        if f.trap == VEC_AC and is_canonical(at[k].linear) and at[k].linear & (at[k].size - 1):
            break
        if not is_canonical(at[k].linear) or not is_canonical(at[k].linear + at[k].size - 1):
            if lane_faults(&i, at[k].linear):
                return leave_saved(c, f, frag, guest, LEAVE_EMULATE)
            raise_err(c, VEC_SS if at[k].stack else VEC_GP, 0)
            return leave_saved(c, f, frag, guest, LEAVE_FAULT)
        if not slot_live(c, at[k].linear):
            r = mmu_slot_fault(c, at[k].linear, at[k].kind | user)
            if r == MEM_OK:
                return leave_saved(c, f, frag, guest, LEAVE_AGAIN)
            if r == MEM_MMIO:
                return leave_saved(c, f, frag, guest, to_emulator(c, frag))
            if lane_faults(&i, at[k].linear):
                return leave_saved(c, f, frag, guest, LEAVE_EMULATE)
            if f.regs[HR_EFL] & HOST_AC and mmu_slot_open(c, at[k].linear):
                # Once the slot has a window, the host decides between #AC and #PF, as its vendor
                # defines it.
                return leave_saved(c, f, frag, guest, LEAVE_AGAIN)
            return leave_saved(c, f, frag, guest, LEAVE_FAULT)
    if f.trap == VEC_AC:
        raise_err(c, VEC_AC, 0)
        return leave_saved(c, f, frag, guest, LEAVE_FAULT)
    if bound_elsewhere(c, f, &i, n != 0 and at[n - 1].stack):
        return leave_saved(c, f, frag, guest, to_emulator(c, frag))
    if f.trap == VEC_PF or (n != 0 and window_unused(f)):
        return leave_saved(c, f, frag, guest, retried(c, frag, frag.rip + guest))
    raise_err(c, VEC_GP, 0)
    return leave_saved(c, f, frag, guest, LEAVE_FAULT)


cdef int step(CpuState* c, HostFault* f, Cache* k, u32 host) noexcept nogil:
    """Single-step a store that dropped its own fragment, up to the next instruction boundary.

    The end of a repetition is a boundary too: the instruction's own bytes may have changed.
    """
    cdef u32 index = <u32>(c.completing - 1), guest, start = 0
    cdef Fragment* frag = &k.fragments[index]
    if frag.host <= host < frag.host + frag.size:
        if is_repeated_string(f.regs[HR_RIP]):
            guest = cache_guest_offset(k, frag, host, &start)
        elif not cache_is_boundary(k, frag, host, &guest):
            return 1
        return leave(c, f, frag, guest, LEAVE_STEPPED)
    f.regs[HR_EFL] &= ~<u64>HOST_TF
    c.completing = 0
    return 1


cdef int page_fault(CpuState* c, HostFault* f, Cache* k, u32 index, u32 guest) noexcept nogil:
    cdef Fragment* frag = &k.fragments[index]
    cdef u64 linear = 0, rip = frag.rip + guest
    cdef int r
    if not frag.key & KEY_MODE64 and not window_live(c):
        return beyond_window(c, f, frag, guest)
    if not frag.key & KEY_MODE64:
        linear = mmu_linear_of(c, f.address)
        # The sum of the operand's parts has more than 32 bits, or is negative: it wraps around.
        # Or it is just below 4 GiB, where an operand that passes a segment of 64 KiB at 0 begins.
        if linear >> 32 or (frag.key & KEY_DATA64K and HIGH32 - linear < 64):
            return leave(c, f, frag, guest, LEAVE_EMULATE)
    r = mmu_shadow_fault(c, f.address, f.error & (ACC_WRITE | ACC_FETCH), &linear)
    if r == MEM_OK:
        return resumed(c, f, k, index)
    if r == MEM_MMIO:
        return leave(c, f, frag, guest, to_emulator(c, frag))
    if r == MEM_FAULT and (LOW_END - linear < 64 or linear - HIGH32 < 64):
        # The emulator decides at the two ends: an operand that ends beyond the last canonical
        # address raises #GP or #SS, and with 67h the lanes of a masked move wrap around to 0.
        return leave(c, f, frag, guest, LEAVE_EMULATE)
    if r == MEM_FAULT:
        return leave(c, f, frag, guest, LEAVE_FAULT)
    # The access ran into a guard page.
    if not frag.key & KEY_MODE64:
        return leave(c, f, frag, guest, LEAVE_EMULATE)
    return leave(c, f, frag, guest, retried(c, frag, rip))


cdef int native_fault(CpuState* c, HostFault* f) noexcept nogil:
    """Pass the vector of an emulated instruction's fault to its emulator (emulation.native)."""
    c.native_vector = f.trap
    f.regs[HR_RIP] = c.native_leave
    f.regs[HR_EFL] &= ~<u64>(HOST_TF | HOST_DF | HOST_AC)
    return 1


cdef int prodded(CpuState* c, HostFault* f) noexcept nogil:
    """Make translated code, to which the handler returns, leave soon if attention was requested.

    The fragment that the thread runs, or is about to enter, becomes the last one; a repeated string
    instruction leaves at once.
    """
    cdef Cache* k = <Cache*>c.cache
    cdef u64 host = f.regs[HR_RIP] - <u64>k.run
    cdef u32 index, start = 0
    cdef const u8* p = <const u8*>f.regs[HR_RIP]
    if not c.attention:
        return 1
    if k.first <= host < k.size:
        index = cache_fragment_at(k, <u32>host)
        if index != NONE and (p[0] == 0xF3 or p[0] == 0xF2 or p[0] == 0x66) and not c.completing \
                and unbias_string(c, f.regs):
            return leave_saved(c, f, &k.fragments[index],
                               cache_guest_offset(k, &k.fragments[index], <u32>host, &start),
                               LEAVE_SAFEPOINT)
    elif k.stubs.at[STUB_ENTER] <= host < k.stubs.enter_end:
        index = cache_fragment_at(k, <u32>(c.entry - <u64>k.run))
    else:
        # The thread is in compiled code, which checks before it enters a fragment.  But another
        # signal handler may return to the middle of a fragment, so try again later.
        if f.nested:
            prod_arm(c)
        return 1
    if index != NONE:
        exits_cut(c, k, index)
    prod_arm(c)
    return 1


cdef int handle_fault(CpuState* c, HostFault* f) noexcept nogil:
    """Handle a host signal; 1: it came from translated code and is handled."""
    if f.signal == SIG_URG and c.direct_pidfd:
        direct_stop(c)
        return 1
    if f.signal != SIG_URG and not translated_fault(c, f):
        return 0
    # A request that came meanwhile has found the thread here.
    return prodded(c, f)


cdef int translated_fault(CpuState* c, HostFault* f) noexcept nogil:
    """Handle a fault; 1: translated code, or an emulated instruction, has raised it."""
    cdef Cache* k = <Cache*>c.cache
    cdef u64 host = f.regs[HR_RIP] - <u64>k.run
    cdef u32 index, guest, start
    cdef Fragment* frag
    if f.regs[HR_RIP] - c.native < NATIVE_SIZE:
        return native_fault(c, f)
    if host >= k.size:
        return 0
    if f.signal == SIG_TRAP and c.completing:
        return step(c, f, k, <u32>host)
    if host < k.first:
        return 0
    index = cache_fragment_at(k, <u32>host)
    if index == NONE:
        return 0
    frag = &k.fragments[index]
    guest = cache_guest_offset(k, frag, <u32>host, &start)
    if is_probe(f.regs[HR_RIP]):
        return probe_fault(c, f, k, index, guest)
    if f.trap == VEC_PF and mmu_is_window(c, f.address):
        return page_fault(c, f, k, index, guest)
    if f.trap == VEC_PF or f.trap == VEC_GP or f.trap == VEC_SS or f.trap == VEC_AC:
        return unused_slot(c, f, frag, guest)
    if f.trap == VEC_XM and not c.arch.cr4 & CR4_OSXMMEXCPT:
        return raise_here(c, f, frag, guest, VEC_UD, False)
    if f.trap == VEC_DE or f.trap == VEC_UD or f.trap == VEC_MF or f.trap == VEC_XM:
        return raise_here(c, f, frag, guest, f.trap, False)
    return 0


cdef u64 guest_fop(CpuState* c, Fragment* frag, u32 guest, const u8* host) noexcept nogil:
    """Return FOP of the guest's instruction, with FOP of its translation in the upper half."""
    cdef u8 code[16]
    cdef u32 fop = X87_NONE
    if guest_bytes(c, frag, guest, code):
        fop = x87_opcode(code)
    return fop | <u64>x87_opcode(host) << 32


cdef u64 fpu_pointer(CpuState* c, u64 host, int data) noexcept nogil:
    cdef Cache* k = <Cache*>c.cache
    cdef u64 at = host - <u64>k.run
    cdef u32 index, start = 0
    cdef Fragment* frag
    if data == FPU_DATA:
        # Of an operand in GS, the host's registers have the 32-bit address, which is the guest's.
        return host if host >> 32 == 0 else mmu_linear_of(c, host)
    if at >= k.size:
        return 0
    index = cache_fragment_at(k, <u32>at)
    if index == NONE:
        return 0
    frag = &k.fragments[index]
    if data == FPU_OPCODE:
        return guest_fop(c, frag, cache_guest_offset(k, frag, <u32>at, &start), <const u8*>host)
    return frag.rip + cache_guest_offset(k, frag, <u32>at, &start)
