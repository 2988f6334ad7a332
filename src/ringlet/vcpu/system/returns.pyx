"""Far RET and IRET (SDM 3A 5.8.6, 6.12.1, 20.2.5; SDM 2A IRET).

A return leads to the same ring or an outer one.  In real and virtual-8086 mode it only pops; IRET
with RFLAGS.NT returns to another task, and IRET at CPL 0 may enter virtual-8086 mode.
"""
from ringlet.core.state cimport (
    RSP, SEG_ES, SEG_CS, SEG_SS, SEG_DS, SEG_FS, SEG_GS, AR_P, AR_DB, AR_UNUSABLE,
    EMU_FAULT, EMU_FLOW, FLAG_AC, FLAG_CF, FLAG_AF, FLAG_DF, FLAG_ID, FLAG_IF, FLAG_IOPL, FLAG_NT,
    FLAG_OF, FLAG_PF, FLAG_RF, FLAG_SF, FLAG_TF, FLAG_VIF, FLAG_VIP, FLAG_VM, FLAG_ZF, KEY_MODE64,
    VEC_GP, VEC_NP, get_rflags, raise_err, set_rflags)
from ringlet.mmu.mmu cimport mmu_prefill
from ringlet.vcpu.direct.policy cimport policy_returns
from ringlet.vcpu.system.code cimport (
    check_paragraph_target, check_target, enter_code, enter_paragraph, is_code)
from ringlet.vcpu.system.descriptors cimport (
    Descriptor, is_null, load_cache, load_null, load_paragraph, mark_accessed, require,
    selector_error)
from ringlet.vcpu.system.flags cimport flags_denied, flags_virtual, load_virtual_image
from ringlet.vcpu.system.memory cimport pop_values, stack_step
from ringlet.vcpu.system.segments cimport check_stack_segment
from ringlet.vcpu.system.registers cimport (
    AR_CODE, AR_CONFORMING, DR7_ENABLES, code64, dpl_of, iopl, long_mode, next_rip, paragraphs,
    real_mode)
from ringlet.vcpu.system.tasks cimport return_from_task


cdef int check_return_code(CpuState* c, u32 selector, Descriptor* cs) noexcept nogil:
    """Check CS of a return, which must lead to the same or an outer ring."""
    cdef u32 rpl = selector & 3
    if is_null(selector):
        return raise_err(c, VEC_GP, 0)
    if require(c, selector, cs):
        return EMU_FAULT
    if not is_code(cs.ar) or rpl < c.arch.cpl or (code64(c, cs.ar) and cs.ar & AR_DB):
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
        if not code64(c, cs.ar) or cpl == 3 or selector & 3 != cpl:
            return raise_err(c, VEC_GP, 0)
        return 0
    return check_stack_segment(c, selector, cpl, ss)


cdef void load_return_stack(CpuState* c, u32 selector, Descriptor* ss, u32 cpl) noexcept nogil:
    if is_null(selector):
        load_null(&c.arch.seg[SEG_SS], selector, cpl)
    else:
        load_cache(&c.arch.seg[SEG_SS], ss, selector)


cdef void drop_inner_segments(CpuState* c, u32 cpl) noexcept nogil:
    """Make data segments null that are too privileged for the outer ring (SDM 3A 5.8.6).

    The selector of one that is null already loses its RPL (SDM 2A IRET); its base stays.
    """
    cdef u32 i
    cdef u32 ar
    for i in range(6):
        if i == SEG_CS or i == SEG_SS:
            continue
        ar = c.arch.seg[i].ar
        if ar & AR_UNUSABLE:
            c.arch.seg[i].selector = 0
        elif (not ar & AR_CODE or not ar & AR_CONFORMING) and dpl_of(ar) < cpl:
            load_null(&c.arch.seg[i], 0, 0)


cdef u64 returned_rsp(CpuState* c, Descriptor* cs, u64 rsp) noexcept nogil:
    """Return RSP of an outer stack, whose SS is loaded already.

    A return to a 16-bit stack loads SP only: the upper half stays that of the inner stack.
    """
    if code64(c, cs.ar):
        return rsp
    if c.arch.seg[SEG_SS].ar & AR_DB:
        return rsp & <u64>0xFFFFFFFF
    return (c.arch.gpr[RSP] & <u64>0xFFFF0000) | (rsp & 0xFFFF)


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
    if paragraphs(c):
        if check_paragraph_target(c, words[0]):
            return EMU_FAULT
        c.arch.gpr[RSP] = stack_step(c, rsp, drop)
        enter_paragraph(c, selector, words[0])
        return EMU_FLOW
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
    c.arch.gpr[RSP] = returned_rsp(c, &cs, outer[0] + drop)
    drop_inner_segments(c, cpl)
    enter_code(c, &cs, selector, cpl, words[0])
    return EMU_FLOW


cdef void return_flags(CpuState* c, u64 image, u32 size) noexcept nogil:
    """Load RFLAGS from IRET's image, as far as the current CPL allows (SDM 2A IRET).

    Virtual-8086 mode has CPL 3, and IOPL 3 where this is called.
    """
    cdef u64 mask = (FLAG_CF | FLAG_PF | FLAG_AF | FLAG_ZF | FLAG_SF | FLAG_TF | FLAG_DF |
                     FLAG_OF | FLAG_NT)
    if size > 2:
        mask |= FLAG_RF | FLAG_AC | FLAG_ID
    if c.arch.cpl <= iopl(c):
        mask |= FLAG_IF
    if c.arch.cpl == 0:
        mask |= FLAG_IOPL
        if size > 2 and not real_mode(c):
            mask |= FLAG_VIF | FLAG_VIP
    set_rflags(c, (get_rflags(c) & ~mask) | (image & mask))


cdef void drop_useless_rf(CpuState* c) noexcept nogil:
    """Clear RF where it has no effect, because nothing would after the next instruction."""
    if not c.arch.dr[7] & DR7_ENABLES:
        c.arch.rflags &= ~<u64>FLAG_RF


cdef int iret_paragraph(CpuState* c, OpInfo* op) noexcept nogil:
    """IRET in real mode, and within virtual-8086 mode, where it depends on IOPL and CR4.VME."""
    cdef u64 words[3]
    cdef u64 rsp = c.arch.gpr[RSP]
    if flags_denied(c, op.size):
        return raise_err(c, VEC_GP, 0)
    if pop_values(c, &rsp, words, 3, op.size) or check_paragraph_target(c, words[0]):
        return EMU_FAULT
    if flags_virtual(c):
        if load_virtual_image(c, words[2]):
            return EMU_FAULT
    else:
        return_flags(c, words[2], op.size)
    drop_useless_rf(c)
    c.arch.gpr[RSP] = rsp
    enter_paragraph(c, <u32>words[1] & 0xFFFF, words[0])
    return EMU_FLOW


cdef int iret_to_virtual_8086(CpuState* c, u64* words, u64 rsp) noexcept nogil:
    """IRETD at CPL 0 with VM in the image: pops ESP and five more selectors (SDM 3A 20.2.5)."""
    cdef u64 rest[6]
    if pop_values(c, &rsp, rest, 6, 4):
        return EMU_FAULT
    if words[0] > 0xFFFF:
        return raise_err(c, VEC_GP, 0)
    set_rflags(c, words[2])
    drop_useless_rf(c)
    c.arch.gpr[RSP] = rest[0]
    load_paragraph(c, &c.arch.seg[SEG_SS], <u32>rest[1])
    load_paragraph(c, &c.arch.seg[SEG_ES], <u32>rest[2])
    load_paragraph(c, &c.arch.seg[SEG_DS], <u32>rest[3])
    load_paragraph(c, &c.arch.seg[SEG_FS], <u32>rest[4])
    load_paragraph(c, &c.arch.seg[SEG_GS], <u32>rest[5])
    c.arch.cpl = 3
    enter_paragraph(c, <u32>words[1] & 0xFFFF, words[0])
    return EMU_FLOW


cdef int op_iret(CpuState* c, OpInfo* op) noexcept nogil:
    """IRET, IRETD, IRETQ: in 64-bit mode SS:RSP is always popped; in IA-32e mode NT raises #GP(0).

    IRET unblocks NMIs even if it faults (SDM 3A 6.7.1).
    """
    cdef Descriptor cs, ss
    cdef u64 words[5]
    cdef u64 rsp = c.arch.gpr[RSP]
    cdef u32 selector, cpl
    cdef u32 stack_selector = 0
    cdef bint with_stack = c.key & KEY_MODE64 != 0
    c.arch.nmi_blocked = 0
    if paragraphs(c):
        return iret_paragraph(c, op)
    if c.arch.rflags & FLAG_NT:
        if long_mode(c):
            return raise_err(c, VEC_GP, 0)
        return EMU_FAULT if return_from_task(c, next_rip(c, op)) else EMU_FLOW
    if pop_values(c, &rsp, words, 5 if with_stack else 3, op.size):
        return EMU_FAULT
    selector = <u32>words[1] & 0xFFFF
    if words[2] & FLAG_VM and op.size == 4 and c.arch.cpl == 0 and not long_mode(c):
        return iret_to_virtual_8086(c, words, rsp)
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
    drop_useless_rf(c)
    if with_stack:
        load_return_stack(c, stack_selector, &ss, cpl)
        rsp = returned_rsp(c, &cs, words[3])
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
