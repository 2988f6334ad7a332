"""Single steps and breakpoints around one instruction of translated code (SDM 3B 17.2-17.3).

With KEY_STEP in its key, a fragment holds one instruction, or one repetition of a string
instruction.  The run loop calls these functions before and after it.
"""
from ringlet.core.ops cimport OP_IN, OP_INS, OP_OUT, OP_OUTS
from ringlet.core.state cimport *
from ringlet.translate.insn cimport *
from ringlet.translate.shape cimport SHAPE_OP, SHAPE_STRING
from ringlet.vcpu.debug.registers cimport instruction_breakpoint
from ringlet.vcpu.debug.stops cimport debug_access, debug_forget, debug_watches
from ringlet.vcpu.loop.events cimport SHADOW_MOV_SS
from ringlet.vcpu.loop.accesses cimport Access, accesses
from ringlet.vcpu.loop.faults cimport guest_bytes
from ringlet.vcpu.loop.narrow_accesses cimport narrow_accesses
from ringlet.vcpu.system.registers cimport CR4_DE, DR6_BS, DR7_ENABLES
from ringlet.vcpu.debug.watch cimport data_hits, port_hits


cdef int step_before(CpuState* c, u32 shadow, Step* s) noexcept nogil:
    s.rip = c.arch.rip
    s.traps = c.arch.rflags & FLAG_TF
    s.resume = c.arch.rflags & FLAG_RF
    s.flags = c.arch.rflags & FLAGS_HOST
    s.hits = 0
    s.repeats = False
    if shadow == SHADOW_MOV_SS:
        return 0
    if c.arch.db_pending:
        # These traps belong to an instruction that the machine has completed.
        c.exc_dr6 = c.arch.db_pending
        c.arch.db_pending = 0
        return raise_exc(c, VEC_DB)
    return instruction_breakpoint(c)


cdef bint exhausted(CpuState* c, Insn* i) noexcept nogil:
    """Whether the count of a repeated instruction is 0, at its address size."""
    if i.address == 2:
        return <u16>c.arch.gpr[RCX] == 0
    return (<u32>c.arch.gpr[RCX] if i.address == 4 else c.arch.gpr[RCX]) == 0


cdef void step_watch(CpuState* c, Fragment* frag, Step* s) noexcept nogil:
    cdef Insn i
    cdef u8 code[16]
    cdef Access at[3]
    cdef u32 k, n
    if not guest_bytes(c, frag, 0, code):
        return
    if decode(shapes_of(c, frag.key), code, 16, &i) != DECODE_OK:
        return
    s.repeats = i.shape.kind == SHAPE_STRING and i.prefixes & (PFX_REP | PFX_REPNE)
    if not (c.arch.dr[7] & DR7_ENABLES or debug_watches(c)) or (s.repeats and exhausted(c, &i)):
        return
    if i.shape.kind == SHAPE_OP and c.arch.cr4 & CR4_DE:
        s.hits |= port_accesses(c, &i)
    n = accesses(c, &i, s.rip, at) if frag.key & KEY_MODE64 else narrow_accesses(c, &i, at)
    for k in range(n):
        s.hits |= data_hits(c, at[k].linear, at[k].size, at[k].kind == ACC_WRITE)
        if c.debugger != NULL:
            debug_access(c, at[k].linear, at[k].size, at[k].kind == ACC_WRITE)


cdef u64 port_accesses(CpuState* c, Insn* i) noexcept nogil:
    """Return DR6.B0-B3 of the I/O breakpoints that the instruction hits (SDM 3B 17.2.4)."""
    cdef u32 op = i.shape.op
    if op != OP_IN and op != OP_OUT and op != OP_INS and op != OP_OUTS:
        return 0
    if (i.opcode & 0xFC) == 0xE4:
        return port_hits(c, <u64>i.imm & 0xFF, i.shape.size)
    return port_hits(c, c.arch.gpr[RDX] & 0xFFFF, i.shape.size)


cdef void step_left(CpuState* c, Step* s) noexcept nogil:
    c.arch.db_pending |= s.hits


cdef void step_undone(CpuState* c, Step* s) noexcept nogil:
    debug_forget(c)
    if c.arch.rip == s.rip:
        c.arch.rflags |= s.resume


cdef int step_after(CpuState* c, Step* s, int result, bint emulated) noexcept nogil:
    cdef u64 hits = s.hits | c.arch.db_pending
    if result == EMU_FAULT and not (c.exc_vector == VEC_DB and c.exc_dr6 & DR6_BS):
        c.arch.db_pending = 0
        debug_forget(c)
        return EMU_FAULT
    if result == EMU_FAULT:
        hits |= c.exc_dr6
    elif s.traps and not emulated:
        hits |= DR6_BS
    c.arch.db_pending = 0
    if result != EMU_FAULT and c.arch.inhibit == SHADOW_MOV_SS:
        # A load of SS holds its own traps back until after the next instruction.
        c.arch.db_pending = hits
        return result
    if s.repeats and c.arch.rip == s.rip:
        c.arch.rflags |= FLAG_RF
        if c.conduct & CONDUCT_FLAGS_WITH_LAST_COMPARISON:
            c.arch.rflags = c.arch.rflags & ~<u64>FLAGS_HOST | s.flags
    if not hits:
        return result
    c.exc_dr6 = hits
    return raise_exc(c, VEC_DB)
