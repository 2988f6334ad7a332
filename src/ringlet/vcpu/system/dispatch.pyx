"""Emulation of one sensitive instruction, from its `Op` to its effect on the virtual processor.

`emulate` performs a decoded instruction; `complete` finishes one that left for the machine before
its end.  Both return EMU_*.  EMU_FAULT may also mean a trap, such as the single step's #DB after
an instruction that is complete.  Then c.arch.rip is past it; call `deliver` as for a fault.
"""
from ringlet.core.ops cimport (
    OP_IN, OP_OUT, OP_INS, OP_OUTS, OP_CLI, OP_STI, OP_PUSHF, OP_POPF, OP_INT, OP_INT3, OP_INT1,
    OP_INTO,
    OP_IRET, OP_SYSCALL, OP_SYSRET, OP_SYSENTER, OP_SYSEXIT, OP_CALL_FAR, OP_JMP_FAR, OP_RET_FAR,
    OP_HLT, OP_SGDT, OP_SIDT, OP_SLDT, OP_STR, OP_LGDT, OP_LIDT, OP_LLDT, OP_LTR, OP_SMSW, OP_LMSW,
    OP_CLTS, OP_MOV_FROM_SEG, OP_MOV_TO_SEG, OP_PUSH_SEG, OP_POP_SEG, OP_LOAD_FAR, OP_LAR, OP_LSL,
    OP_VERR, OP_VERW, OP_MOV_FROM_CR, OP_MOV_TO_CR, OP_MOV_FROM_DR, OP_MOV_TO_DR, OP_RDMSR,
    OP_WRMSR, OP_RDTSC, OP_RDTSCP, OP_RDPMC, OP_RDPID, OP_CPUID, OP_XGETBV, OP_XSETBV, OP_SWAPGS,
    OP_RDFSBASE, OP_RDGSBASE, OP_WRFSBASE, OP_WRGSBASE, OP_INVLPG, OP_INVD, OP_WBINVD, OP_FXSAVE,
    OP_FXRSTOR, OP_XSAVE, OP_XSAVEC, OP_XSAVEOPT, OP_XSAVES, OP_XRSTOR, OP_XRSTORS, OP_FNSTENV,
    OP_FNSAVE, OP_FLDENV, OP_FRSTOR, OP_ENTER, OP_SERIALIZE, OP_NM, OP_EMULATE, OP_DEVICE_READ,
    OP_DEVICE_WRITE)
from ringlet.core.state cimport (
    CONDUCT_XSAVE_STACK_BEFORE_ALIGNMENT, KEY_MODE64, SEG_FS, SEG_GS, EMU_EXIT, EMU_FAULT,
    EMU_FLOW, EMU_NEXT,
    EXIT_EMULATE, EXIT_HLT, EXIT_SHUTDOWN, FLAG_RF, FLAG_TF, VEC_BP, VEC_DB, VEC_GP, VEC_SS, VEC_UD,
    is_canonical, raise_err, raise_exc)
from ringlet.vcpu.system.control cimport (
    op_cache, op_clts, op_invlpg, op_lmsw, op_mov_from_cr, op_mov_to_cr, op_smsw)
from ringlet.vcpu.system.devices cimport finish_device_read, op_device_read, op_device_write
from ringlet.vcpu.system.cpuid cimport CPUID_EDX, cpuid_bit, op_cpuid
from ringlet.vcpu.debug.registers cimport op_mov_from_dr, op_mov_to_dr, single_step
from ringlet.vcpu.loop.events cimport SHADOW_MOV_SS
from ringlet.vcpu.system.fastcalls cimport op_syscall, op_sysenter, op_sysexit, op_sysret
from ringlet.vcpu.system.environment cimport op_fldenv, op_fnsave, op_fnstenv, op_frstor
from ringlet.vcpu.system.fpstate cimport (
    op_fxrstor, op_fxsave, op_nm, op_xgetbv, op_xrstor, op_xrstors, op_xsave, op_xsavec,
    op_xsaveopt, op_xsaves, op_xsetbv)
from ringlet.vcpu.system.gathers cimport op_gather
from ringlet.vcpu.system.msr cimport (
    op_rdmsr, op_rdpid, op_rdpmc, op_rdtsc, op_rdtscp, op_wrmsr)
from ringlet.vcpu.loop.exceptions cimport deliver_again
from ringlet.vcpu.system.mmio cimport device_forget
from ringlet.vcpu.system.operand cimport on_stack
from ringlet.vcpu.system.pending cimport (
    PENDING_DEVICE, PENDING_IN, PENDING_INS, PENDING_NONE, PENDING_OP, PENDING_STORE, PENDING_TRAP,
    leave, leave_emulate)
from ringlet.vcpu.system.ports cimport finish_in, finish_ins, op_in, op_ins, op_out, op_outs
from ringlet.vcpu.system.segmented cimport locate_operand
from ringlet.vcpu.system.segments cimport (
    op_load_far, op_mov_from_seg, op_mov_to_seg, op_pop_seg, op_push_seg, op_read_base, op_swapgs,
    op_write_base)
from ringlet.vcpu.system.flags cimport (
    SOFT_ICE, SOFT_INT, SOFT_TRAP,
    op_cli, op_enter, op_hlt, op_int, op_into, op_popf, op_pushf, op_sti)
from ringlet.vcpu.system.registers cimport advance, write_gpr
from ringlet.vcpu.system.tables cimport (
    op_lar, op_lgdt, op_lidt, op_lldt, op_lsl, op_ltr, op_sgdt, op_sidt, op_sldt, op_str, op_verr,
    op_verw)
from ringlet.vcpu.system.returns cimport op_iret, op_ret_far
from ringlet.vcpu.system.transfers cimport op_call_far, op_jmp_far


cdef int op_serialize(CpuState* c, OpInfo* op) noexcept nogil:
    """SERIALIZE: does nothing, because leaving translated code does more than it requires."""
    if not cpuid_bit(c, 7, 0, CPUID_EDX, 14):
        return raise_exc(c, VEC_UD)
    return EMU_NEXT


cdef int op_emulate(CpuState* c, OpInfo* op) noexcept nogil:
    if c.key & KEY_MODE64 and op_gather(c, op):
        return EMU_NEXT
    return leave_emulate(c, op)


cdef int dispatch(CpuState* c, OpInfo* op) noexcept nogil:
    cdef int kind = op.op
    if kind == OP_IN:
        return op_in(c, op)
    elif kind == OP_OUT:
        return op_out(c, op)
    elif kind == OP_INS:
        return op_ins(c, op)
    elif kind == OP_OUTS:
        return op_outs(c, op)
    elif kind == OP_CLI:
        return op_cli(c, op)
    elif kind == OP_STI:
        return op_sti(c, op)
    elif kind == OP_PUSHF:
        return op_pushf(c, op)
    elif kind == OP_POPF:
        return op_popf(c, op)
    elif kind == OP_IRET:
        return op_iret(c, op)
    elif kind == OP_SYSCALL:
        return op_syscall(c, op)
    elif kind == OP_SYSRET:
        return op_sysret(c, op)
    elif kind == OP_SYSENTER:
        return op_sysenter(c, op)
    elif kind == OP_SYSEXIT:
        return op_sysexit(c, op)
    elif kind == OP_CALL_FAR:
        return op_call_far(c, op)
    elif kind == OP_JMP_FAR:
        return op_jmp_far(c, op)
    elif kind == OP_RET_FAR:
        return op_ret_far(c, op)
    elif kind == OP_HLT:
        return op_hlt(c, op)
    elif kind == OP_SGDT:
        return op_sgdt(c, op)
    elif kind == OP_SIDT:
        return op_sidt(c, op)
    elif kind == OP_SLDT:
        return op_sldt(c, op)
    elif kind == OP_STR:
        return op_str(c, op)
    elif kind == OP_LGDT:
        return op_lgdt(c, op)
    elif kind == OP_LIDT:
        return op_lidt(c, op)
    elif kind == OP_LLDT:
        return op_lldt(c, op)
    elif kind == OP_LTR:
        return op_ltr(c, op)
    elif kind == OP_SMSW:
        return op_smsw(c, op)
    elif kind == OP_LMSW:
        return op_lmsw(c, op)
    elif kind == OP_CLTS:
        return op_clts(c, op)
    elif kind == OP_MOV_FROM_SEG:
        return op_mov_from_seg(c, op)
    elif kind == OP_MOV_TO_SEG:
        return op_mov_to_seg(c, op)
    elif kind == OP_PUSH_SEG:
        return op_push_seg(c, op)
    elif kind == OP_POP_SEG:
        return op_pop_seg(c, op)
    elif kind == OP_LOAD_FAR:
        return op_load_far(c, op)
    elif kind == OP_LAR:
        return op_lar(c, op)
    elif kind == OP_LSL:
        return op_lsl(c, op)
    elif kind == OP_VERR:
        return op_verr(c, op)
    elif kind == OP_VERW:
        return op_verw(c, op)
    elif kind == OP_MOV_FROM_CR:
        return op_mov_from_cr(c, op)
    elif kind == OP_MOV_TO_CR:
        return op_mov_to_cr(c, op)
    elif kind == OP_MOV_FROM_DR:
        return op_mov_from_dr(c, op)
    elif kind == OP_MOV_TO_DR:
        return op_mov_to_dr(c, op)
    elif kind == OP_RDMSR:
        return op_rdmsr(c, op)
    elif kind == OP_WRMSR:
        return op_wrmsr(c, op)
    elif kind == OP_RDTSC:
        return op_rdtsc(c, op)
    elif kind == OP_RDTSCP:
        return op_rdtscp(c, op)
    elif kind == OP_RDPMC:
        return op_rdpmc(c, op)
    elif kind == OP_RDPID:
        return op_rdpid(c, op)
    elif kind == OP_CPUID:
        return op_cpuid(c, op)
    elif kind == OP_XGETBV:
        return op_xgetbv(c, op)
    elif kind == OP_XSETBV:
        return op_xsetbv(c, op)
    elif kind == OP_SWAPGS:
        return op_swapgs(c, op)
    elif kind == OP_INVLPG:
        return op_invlpg(c, op)
    elif kind == OP_FXSAVE:
        return op_fxsave(c, op)
    elif kind == OP_FXRSTOR:
        return op_fxrstor(c, op)
    elif kind == OP_XSAVE:
        return op_xsave(c, op)
    elif kind == OP_XSAVEC:
        return op_xsavec(c, op)
    elif kind == OP_XSAVEOPT:
        return op_xsaveopt(c, op)
    elif kind == OP_XSAVES:
        return op_xsaves(c, op)
    elif kind == OP_XRSTOR:
        return op_xrstor(c, op)
    elif kind == OP_XRSTORS:
        return op_xrstors(c, op)
    elif kind == OP_FNSTENV:
        return op_fnstenv(c, op)
    elif kind == OP_FNSAVE:
        return op_fnsave(c, op)
    elif kind == OP_FLDENV:
        return op_fldenv(c, op)
    elif kind == OP_FRSTOR:
        return op_frstor(c, op)
    elif kind == OP_ENTER:
        return op_enter(c, op)
    elif kind == OP_SERIALIZE:
        return op_serialize(c, op)
    elif kind == OP_NM:
        return op_nm(c, op)
    elif kind == OP_EMULATE:
        return op_emulate(c, op)
    elif kind == OP_DEVICE_READ:
        return op_device_read(c, op)
    elif kind == OP_DEVICE_WRITE:
        return op_device_write(c, op)
    elif kind == OP_INT:
        return op_int(c, op, <u32>op.imm & 0xFF, SOFT_INT)
    elif kind == OP_INT3:
        return op_int(c, op, VEC_BP, SOFT_TRAP)
    elif kind == OP_INT1:
        return op_int(c, op, VEC_DB, SOFT_ICE)
    elif kind == OP_INTO:
        return op_into(c, op)
    elif kind == OP_RDFSBASE:
        return op_read_base(c, op, SEG_FS)
    elif kind == OP_RDGSBASE:
        return op_read_base(c, op, SEG_GS)
    elif kind == OP_WRFSBASE:
        return op_write_base(c, op, SEG_FS)
    elif kind == OP_WRGSBASE:
        return op_write_base(c, op, SEG_GS)
    elif kind == OP_INVD:
        return op_cache(c, op)
    elif kind == OP_WBINVD:
        return op_cache(c, op)
    # This is OP_UD, or an operation that no rule produces.  #GP for a length above 15 bytes has
    # priority over #UD.
    if op.length > 15:
        return raise_err(c, VEC_GP, 0)
    return raise_exc(c, VEC_UD)


cdef inline bint misaligned(CpuState* c, int kind) noexcept nogil:
    """Whether a misaligned XSAVE area raises #GP before #SS.

    Vendors differ in this for the XSAVE family; for FXSAVE all of them check the stack segment
    first.
    """
    return (OP_XSAVE <= kind <= OP_XRSTORS and c.ea & 63
            and not c.conduct & CONDUCT_XSAVE_STACK_BEFORE_ALIGNMENT)


cdef int trap_if(CpuState* c, int result, u64 stepping) noexcept nogil:
    """Raise the single-step trap after a complete instruction."""
    if stepping and (result == EMU_NEXT or result == EMU_FLOW):
        return single_step(c)
    return result


cdef int emulate(CpuState* c, OpInfo* op) noexcept nogil:
    """Perform one instruction at c.arch.rip and return EMU_* (see the module and state.pxd).

    The single-step trap depends on TF before the instruction, with three exceptions: the new TF
    counts for SYSCALL and SYSRET (SDM 3B 17.3.1.4), software interrupts clear TF on entry, and
    loads of SS hold the trap back.

    `inhibit` is the interrupt shadow over the instruction, and afterwards the one that it opens.  A
    load of SS right after another opens none (SDM 3A 6.8.3): otherwise any ring could hold off
    interrupts with a sequence of such loads.
    """
    cdef u64 stepping = c.arch.rflags & FLAG_TF
    cdef u32 shadow = c.arch.inhibit
    cdef u64 offset
    cdef u32 task
    cdef int result
    cdef int kind = op.op
    c.arch.inhibit = 0
    # SYSCALL and SYSRET are the most frequent; without single steps they need no further checks.
    if kind == OP_SYSCALL and not stepping:
        return op_syscall(c, op)
    if kind == OP_SYSRET and not (stepping | c.arch.gpr[11] & FLAG_TF):
        return op_sysret(c, op)
    offset = c.ea
    task = c.arch.tr.selector
    if not c.key & KEY_MODE64 and locate_operand(c, op):
        result = EMU_FAULT
    else:
        result = dispatch(c, op)
    if shadow == SHADOW_MOV_SS and c.arch.inhibit == SHADOW_MOV_SS:
        c.arch.inhibit = 0
    if result == EMU_NEXT:
        advance(c, op)
    if result == EMU_FAULT and c.device_waits:
        c.ea = offset
        return leave(c, op, c.exit_kind, PENDING_OP)
    if result == EMU_FAULT:
        if (c.exc_vector == VEC_GP and op.rm == 0xFF and not is_canonical(c.ea) and
                on_stack(op) and not misaligned(c, kind)):
            # The MMU does not know the segment of the access, so it raised #GP (SDM 3A 6.15).
            c.exc_vector = VEC_SS
        return result
    if kind != OP_IRET and (kind == OP_LTR or c.arch.tr.selector == task):
        # IRET and the switch to another task load RF.
        c.arch.rflags &= ~<u64>FLAG_RF
    if kind == OP_SYSCALL or kind == OP_SYSRET:
        stepping = c.arch.rflags & FLAG_TF
    if not stepping or kind == OP_INT or kind == OP_INT3 or kind == OP_INT1 or (
            kind == OP_INTO and result == EMU_FLOW) or (
            c.arch.inhibit == SHADOW_MOV_SS):
        return result
    if result == EMU_EXIT:
        if c.exit_kind == EXIT_HLT:
            c.arch.halted = 0
            return single_step(c)
        if c.pending == PENDING_NONE and c.exit_kind != EXIT_SHUTDOWN and (
                c.exit_kind != EXIT_EMULATE):
            c.pending = PENDING_TRAP
        return result
    return trap_if(c, result, stepping)


cdef int complete(CpuState* c) noexcept nogil:
    """Finish the pending instruction after the machine has acted; EMU_NEXT if there is none.

    EMU_FLOW: continue at c.arch.rip, where a repeated INS may still be.  EMU_FAULT: as from
    `emulate`.
    """
    cdef u32 pending = c.pending
    cdef OpInfo* op = &c.pending_op
    cdef u64 stepping = c.arch.rflags & FLAG_TF
    cdef int result = EMU_FLOW
    c.pending = PENDING_NONE
    if pending == PENDING_NONE:
        return EMU_NEXT
    if pending == PENDING_IN:
        result = finish_in(c, op)
    elif pending == PENDING_DEVICE:
        result = finish_device_read(c, op)
    elif pending == PENDING_INS:
        c.pending_data = c.io_data
        result = finish_ins(c, op)
        if result == EMU_FAULT and c.device_waits:
            c.pending = PENDING_STORE
            return EMU_EXIT
    return trap_if(c, result, stepping)


cdef int begin_anew(CpuState* c) noexcept nogil:
    """Continue what has waited for a device; EMU_*, as from `emulate` and `deliver`."""
    cdef u32 pending = c.pending
    cdef int result
    c.pending = PENDING_NONE
    c.device_waits = 0
    if pending == PENDING_OP:
        c.op_info = <u64>&c.pending_op
        result = emulate(c, &c.pending_op)
    elif pending == PENDING_STORE:
        c.pending = PENDING_INS
        c.io_data = c.pending_data
        result = complete(c)
    else:
        result = deliver_again(c)
    if not c.device_waits:
        device_forget(c)
    return result

