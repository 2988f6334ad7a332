"""Far CALL, JMP, RET and IRET in IA-32e mode (SDM 3A 5.8).

The only gates are 64-bit call gates.  A TSS or a task gate raises #GP, because IA-32e mode has no
task switching (SDM 3A 7.7).
"""
from ringlet.core.state cimport (
    RSP, SEG_ES, SEG_CS, SEG_SS, SEG_GS, AR_S, AR_P, AR_L, AR_DB, AR_UNUSABLE,
    EMU_FAULT, EMU_FLOW, FLAG_AC, FLAG_CF, FLAG_AF, FLAG_DF, FLAG_ID, FLAG_IF, FLAG_IOPL, FLAG_NT,
    FLAG_OF, FLAG_PF, FLAG_RF, FLAG_SF, FLAG_TF, FLAG_VIF, FLAG_VIP, FLAG_ZF, KEY_MODE64,
    VEC_GP, VEC_NP, VEC_TS, get_rflags, is_canonical, raise_err, set_rflags)
from ringlet.mmu.mmu cimport mmu_prefill
from ringlet.vcpu.direct.policy cimport policy_returns
from ringlet.vcpu.system.control cimport update_key
from ringlet.vcpu.system.descriptors cimport (
    DESC_OUTSIDE, Descriptor, SYS_CALL_GATE, read_wide_descriptor, is_null, load_cache, load_null,
    mark_accessed, require, selector_error)
from ringlet.vcpu.system.memory cimport (
    load, pop_values, push_frame, push_values, read_bytes, stack_step)
from ringlet.vcpu.system.segments cimport check_stack_segment
from ringlet.vcpu.system.registers cimport (
    AR_CODE, AR_CONFORMING, DR7_ENABLES, dpl_of, iopl, next_rip)


cdef bint is_code(u32 ar) noexcept nogil:
    return ar & AR_S != 0 and ar & AR_CODE != 0


cdef int check_target(CpuState* c, u32 ar, u32 limit, u64 rip) noexcept nogil:
    """Check that the target is canonical in 64-bit code, or within the limit in other code."""
    if ar & AR_L:
        if is_canonical(rip):
            return 0
    elif rip <= limit:
        return 0
    return raise_err(c, VEC_GP, 0)


cdef void enter_code(CpuState* c, Descriptor* d, u32 selector, u32 cpl, u64 rip) noexcept nogil:
    load_cache(&c.arch.seg[SEG_CS], d, (selector & 0xFFFC) | cpl)
    c.arch.cpl = cpl
    c.arch.rip = rip
    update_key(c)


cdef int read_target(CpuState* c, OpInfo* op, u64* offset, u32* selector) noexcept nogil:
    """Read the far pointer of JMP or CALL, in memory or (not in 64-bit mode) immediate."""
    cdef u64 value = 0
    if op.rm != 0xFF:
        offset[0] = op.imm & (0xFFFF if op.size == 2 else <u64>0xFFFFFFFF)
        selector[0] = <u32>(op.imm >> (8 * op.size)) & 0xFFFF
        return 0
    if load(c, c.ea, op.size, offset) or load(c, c.ea + op.size, 2, &value):
        return EMU_FAULT
    selector[0] = <u32>value
    return 0


cdef int check_direct(CpuState* c, u32 selector, Descriptor* d) noexcept nogil:
    """Check a code segment reached without a gate: the CPL does not change (SDM 3A 5.8.1)."""
    if d.ar & AR_L and d.ar & AR_DB:
        return raise_err(c, VEC_GP, selector_error(selector))
    if d.ar & AR_CONFORMING:
        if dpl_of(d.ar) > c.arch.cpl:
            return raise_err(c, VEC_GP, selector_error(selector))
    elif selector & 3 > c.arch.cpl or dpl_of(d.ar) != c.arch.cpl:
        return raise_err(c, VEC_GP, selector_error(selector))
    if not d.ar & AR_P:
        return raise_err(c, VEC_NP, selector_error(selector))
    return 0


cdef int read_gate(CpuState* c, u32 selector, Descriptor* cs, u32* cs_selector,
                   u64* rip) noexcept nogil:
    """Read a 64-bit call gate and the code segment that it names (SDM 3A 5.8.3.1)."""
    cdef Descriptor gate
    cdef int result = read_wide_descriptor(c, selector, &gate)
    if result == EMU_FAULT:
        return EMU_FAULT
    if (result == DESC_OUTSIDE or gate.ar & 0x1F != SYS_CALL_GATE or
            <u32>(gate.high >> 40) & 0x1F or
            dpl_of(gate.ar) < c.arch.cpl or dpl_of(gate.ar) < selector & 3):
        return raise_err(c, VEC_GP, selector_error(selector))
    if not gate.ar & AR_P:
        return raise_err(c, VEC_NP, selector_error(selector))
    cs_selector[0] = <u32>(gate.low >> 16) & 0xFFFF
    rip[0] = (gate.low & 0xFFFF) | ((gate.low >> 32) & <u64>0xFFFF0000) | (gate.high << 32)
    if is_null(cs_selector[0]):
        return raise_err(c, VEC_GP, 0)
    if require(c, cs_selector[0], cs):
        return EMU_FAULT
    if (not is_code(cs.ar) or dpl_of(cs.ar) > c.arch.cpl or not cs.ar & AR_L or cs.ar & AR_DB):
        return raise_err(c, VEC_GP, selector_error(cs_selector[0]))
    return 0


cdef int far_target(CpuState* c, OpInfo* op, bint jump, Descriptor* cs, u32* selector, u64* rip,
                    bint* gated) noexcept nogil:
    """Find the target of a far jump or call, in a code segment or by a call gate (`gated`)."""
    gated[0] = False
    if read_target(c, op, rip, selector):
        return EMU_FAULT
    if is_null(selector[0]):
        return raise_err(c, VEC_GP, 0)
    if require(c, selector[0], cs):
        return EMU_FAULT
    if is_code(cs.ar):
        return check_direct(c, selector[0], cs)
    if cs.ar & 0x1F != SYS_CALL_GATE:
        return raise_err(c, VEC_GP, selector_error(selector[0]))
    gated[0] = True
    if read_gate(c, selector[0], cs, selector, rip):
        return EMU_FAULT
    # A jump cannot change the CPL.
    if jump and not cs.ar & AR_CONFORMING and dpl_of(cs.ar) != c.arch.cpl:
        return raise_err(c, VEC_GP, selector_error(selector[0]))
    if not cs.ar & AR_P:
        return raise_err(c, VEC_NP, selector_error(selector[0]))
    return 0


cdef int op_jmp_far(CpuState* c, OpInfo* op) noexcept nogil:
    cdef Descriptor cs
    cdef u64 rip = 0
    cdef u32 selector = 0
    cdef bint gated
    if far_target(c, op, True, &cs, &selector, &rip, &gated):
        return EMU_FAULT
    if check_target(c, cs.ar, cs.limit, rip) or mark_accessed(c, &cs):
        return EMU_FAULT
    enter_code(c, &cs, selector, c.arch.cpl, rip)
    return EMU_FLOW


cdef int call_inner(CpuState* c, OpInfo* op, Descriptor* cs, u32 selector, u64 rip) noexcept nogil:
    """Call through a gate to a more privileged ring: new stack from the TSS, null SS."""
    cdef u64 frame[4]
    cdef u64 rsp = 0
    cdef u32 cpl = dpl_of(cs.ar)
    cdef u32 offset = 4 + 8 * cpl
    if c.arch.tr.ar & AR_UNUSABLE or <u64>offset + 7 > c.arch.tr.limit:
        return raise_err(c, VEC_TS, selector_error(c.arch.tr.selector))
    if read_bytes(c, c.arch.tr.base + offset, &rsp, 8, 0):
        return EMU_FAULT
    frame[0] = next_rip(c, op)
    frame[1] = c.arch.seg[SEG_CS].selector
    frame[2] = c.arch.gpr[RSP]
    frame[3] = c.arch.seg[SEG_SS].selector
    if check_target(c, cs.ar, cs.limit, rip) or mark_accessed(c, cs):
        return EMU_FAULT
    if push_frame(c, rsp, frame, 4, 0):
        return EMU_FAULT
    c.arch.gpr[RSP] = rsp - 32
    load_null(&c.arch.seg[SEG_SS], cpl, cpl)
    enter_code(c, cs, selector, cpl, rip)
    return EMU_FLOW


cdef int op_call_far(CpuState* c, OpInfo* op) noexcept nogil:
    cdef Descriptor cs
    cdef u64 words[2]
    cdef u64 rip = 0
    cdef u64 rsp = c.arch.gpr[RSP]
    cdef u32 selector = 0
    cdef u32 size = op.size
    cdef bint gated
    if far_target(c, op, False, &cs, &selector, &rip, &gated):
        return EMU_FAULT
    if gated:
        if not cs.ar & AR_CONFORMING and dpl_of(cs.ar) < c.arch.cpl:
            return call_inner(c, op, &cs, selector, rip)
        size = 8
    words[0] = next_rip(c, op)
    words[1] = c.arch.seg[SEG_CS].selector
    if check_target(c, cs.ar, cs.limit, rip) or mark_accessed(c, &cs):
        return EMU_FAULT
    if push_values(c, &rsp, words, 2, size):
        return EMU_FAULT
    c.arch.gpr[RSP] = rsp
    enter_code(c, &cs, selector, c.arch.cpl, rip)
    return EMU_FLOW


cdef int check_return_code(CpuState* c, u32 selector, Descriptor* cs) noexcept nogil:
    """Check CS of a return, which must lead to the same or an outer ring."""
    cdef u32 rpl = selector & 3
    if is_null(selector):
        return raise_err(c, VEC_GP, 0)
    if require(c, selector, cs):
        return EMU_FAULT
    if not is_code(cs.ar) or rpl < c.arch.cpl or (cs.ar & AR_L and cs.ar & AR_DB):
        return raise_err(c, VEC_GP, selector_error(selector))
    if cs.ar & AR_CONFORMING:
        if dpl_of(cs.ar) > rpl:
            return raise_err(c, VEC_GP, selector_error(selector))
    elif dpl_of(cs.ar) != rpl:
        return raise_err(c, VEC_GP, selector_error(selector))
    if not cs.ar & AR_P:
        return raise_err(c, VEC_NP, selector_error(selector))
    return 0


cdef int check_return_stack(CpuState* c, u32 selector, Descriptor* cs, u32 cpl,
                            Descriptor* ss) noexcept nogil:
    """Check SS of a return to ring `cpl`; it may be null for 64-bit code in rings 0 to 2."""
    if is_null(selector):
        if not cs.ar & AR_L or cpl == 3 or selector & 3 != cpl:
            return raise_err(c, VEC_GP, 0)
        return 0
    return check_stack_segment(c, selector, cpl, ss)


cdef void load_return_stack(CpuState* c, u32 selector, Descriptor* ss, u32 cpl) noexcept nogil:
    if is_null(selector):
        load_null(&c.arch.seg[SEG_SS], selector, cpl)
    else:
        load_cache(&c.arch.seg[SEG_SS], ss, selector)


cdef void drop_inner_segments(CpuState* c, u32 cpl) noexcept nogil:
    """Make data segments null that are too privileged for the outer ring (SDM 3A 5.8.6)."""
    cdef u32 i
    cdef u32 ar
    for i in range(6):
        if i == SEG_CS or i == SEG_SS:
            continue
        ar = c.arch.seg[i].ar
        if ar & AR_UNUSABLE:
            continue
        if (not ar & AR_CODE or not ar & AR_CONFORMING) and dpl_of(ar) < cpl:
            load_null(&c.arch.seg[i], 0, 0)


cdef u64 returned_rsp(Descriptor* cs, u64 rsp) noexcept nogil:
    return rsp if cs.ar & AR_L else rsp & <u64>0xFFFFFFFF


cdef int op_ret_far(CpuState* c, OpInfo* op) noexcept nogil:
    """RET far: drops op.imm bytes of parameters, from both stacks if the ring changes."""
    cdef Descriptor cs, ss
    cdef u64 words[2]
    cdef u64 outer[2]
    cdef u64 rsp = c.arch.gpr[RSP]
    cdef u32 selector, stack_selector, cpl
    cdef u64 drop = op.imm & 0xFFFF
    if pop_values(c, &rsp, words, 2, op.size):
        return EMU_FAULT
    selector = <u32>words[1] & 0xFFFF
    if check_return_code(c, selector, &cs):
        return EMU_FAULT
    cpl = selector & 3
    rsp = stack_step(c, rsp, drop)
    if cpl == c.arch.cpl:
        if check_target(c, cs.ar, cs.limit, words[0]) or mark_accessed(c, &cs):
            return EMU_FAULT
        c.arch.gpr[RSP] = rsp
        enter_code(c, &cs, selector, cpl, words[0])
        return EMU_FLOW
    if pop_values(c, &rsp, outer, 2, op.size):
        return EMU_FAULT
    stack_selector = <u32>outer[1] & 0xFFFF
    if check_return_stack(c, stack_selector, &cs, cpl, &ss):
        return EMU_FAULT
    if check_target(c, cs.ar, cs.limit, words[0]) or mark_accessed(c, &cs):
        return EMU_FAULT
    if not is_null(stack_selector) and mark_accessed(c, &ss):
        return EMU_FAULT
    load_return_stack(c, stack_selector, &ss, cpl)
    c.arch.gpr[RSP] = returned_rsp(&cs, outer[0] + drop)
    drop_inner_segments(c, cpl)
    enter_code(c, &cs, selector, cpl, words[0])
    return EMU_FLOW


cdef void return_flags(CpuState* c, u64 image, u32 size) noexcept nogil:
    """Load RFLAGS from IRET's image, as far as the current CPL allows (SDM 2A IRET)."""
    cdef u64 mask = (FLAG_CF | FLAG_PF | FLAG_AF | FLAG_ZF | FLAG_SF | FLAG_TF | FLAG_DF |
                     FLAG_OF | FLAG_NT)
    if size > 2:
        mask |= FLAG_RF | FLAG_AC | FLAG_ID
    if c.arch.cpl <= iopl(c):
        mask |= FLAG_IF
    if c.arch.cpl == 0:
        mask |= FLAG_IOPL
        if size > 2:
            mask |= FLAG_VIF | FLAG_VIP
    set_rflags(c, (get_rflags(c) & ~mask) | (image & mask))


cdef int op_iret(CpuState* c, OpInfo* op) noexcept nogil:
    """IRET, IRETD, IRETQ: in 64-bit mode SS:RSP is always popped; NT raises #GP(0).

    IRET unblocks NMIs even if it faults (SDM 3A 6.7.1).
    """
    cdef Descriptor cs, ss
    cdef u64 words[5]
    cdef u64 rsp = c.arch.gpr[RSP]
    cdef u32 selector, cpl
    cdef u32 stack_selector = 0
    cdef bint with_stack = c.key & KEY_MODE64 != 0
    c.arch.nmi_blocked = 0
    if c.arch.rflags & FLAG_NT:
        return raise_err(c, VEC_GP, 0)
    if pop_values(c, &rsp, words, 5 if with_stack else 3, op.size):
        return EMU_FAULT
    selector = <u32>words[1] & 0xFFFF
    if check_return_code(c, selector, &cs):
        return EMU_FAULT
    cpl = selector & 3
    if not with_stack and cpl != c.arch.cpl:
        with_stack = True
        if pop_values(c, &rsp, &words[3], 2, op.size):
            return EMU_FAULT
    if with_stack:
        stack_selector = <u32>words[4] & 0xFFFF
        if check_return_stack(c, stack_selector, &cs, cpl, &ss):
            return EMU_FAULT
    if check_target(c, cs.ar, cs.limit, words[0]) or mark_accessed(c, &cs):
        return EMU_FAULT
    if not is_null(stack_selector) and mark_accessed(c, &ss):
        return EMU_FAULT

    return_flags(c, words[2], op.size)
    if not c.arch.dr[7] & DR7_ENABLES:
        # In that case RF has no effect, and nothing would clear it after the next instruction.
        c.arch.rflags &= ~<u64>FLAG_RF
    if with_stack:
        load_return_stack(c, stack_selector, &ss, cpl)
        rsp = returned_rsp(&cs, words[3])
    c.arch.gpr[RSP] = rsp
    if cpl != c.arch.cpl:
        drop_inner_segments(c, cpl)
    enter_code(c, &cs, selector, cpl, words[0])
    if c.direct != NULL and cpl == 3:
        policy_returns(c)
    if c.pf_waits and c.arch.rip == c.pf_rip:
        # By now the guest has usually mapped the page; mapping it here avoids another host fault.
        c.pf_waits = 0
        mmu_prefill(c, c.pf_linear, c.pf_access)
    return EMU_FLOW
