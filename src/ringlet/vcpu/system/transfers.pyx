"""Far JMP and CALL: to a code segment, through a call gate, or to another task (SDM 3A 5.8, 7.3).

In IA-32e mode the only gates are 64-bit call gates.  A TSS or a task gate raises #GP there, because
IA-32e mode has no task switching (SDM 3A 7.7).
"""
from ringlet.core.state cimport (
    RSP, SEG_CS, SEG_SS, AR_P, AR_L, AR_DB, AR_UNUSABLE, EMU_FAULT, EMU_FLOW, FLAG_RF, VEC_GP,
    VEC_NP, VEC_TS, get_rflags, raise_err)
from ringlet.vcpu.system.code cimport (
    check_paragraph_target, check_same_ring, check_target, enter_code, enter_paragraph, is_code)
from ringlet.vcpu.system.descriptors cimport (
    DESC_OUTSIDE, Descriptor, SYS_CALL_GATE, SYS_CALL_GATE16, SYS_TASK_GATE, SYS_TSS16_AVAILABLE,
    SYS_TSS16_BUSY, SYS_TSS_AVAILABLE, SYS_TSS_BUSY, read_wide_descriptor, is_null, load_null,
    mark_accessed, require, selector_error)
from ringlet.vcpu.system.inner cimport InnerStack, read_inner_stack
from ringlet.vcpu.system.memory cimport (
    MAX_VALUES, check_room, check_stack, load, locate_values, push_frame, push_on, push_values,
    read_bytes)
from ringlet.vcpu.system.registers cimport (
    AR_CONFORMING, dpl_of, long_mode, mode64, next_rip, paragraphs)
from ringlet.vcpu.system.tasks cimport (
    TASK_CALL, TASK_JMP, begin_task, find_task, switch_task)

# The ways of a far transfer.
cdef enum:
    WAY_DIRECT = 0
    WAY_GATE = 1
    WAY_TASK = 2

# The target of a far transfer.
cdef struct Target:
    u32 way
    u32 selector
    u64 rip
    u32 size         # of the values that a call pushes
    u32 count        # parameters that a call gate copies to an inner stack
    Descriptor d     # the code segment, or the TSS


cdef int read_target(CpuState* c, OpInfo* op, Target* t) noexcept nogil:
    """Read the far pointer of JMP or CALL, in memory or (not in 64-bit mode) immediate."""
    cdef u64 value = 0
    t.way = WAY_DIRECT
    t.size = op.size
    t.count = 0
    if op.rm != 0xFF:
        t.rip = op.imm & (0xFFFF if op.size == 2 else <u64>0xFFFFFFFF)
        t.selector = <u32>(op.imm >> (8 * op.size)) & 0xFFFF
        return 0
    if load(c, c.ea, op.size, &t.rip) or load(c, c.ea + op.size, 2, &value):
        return EMU_FAULT
    t.selector = <u32>value
    return 0


cdef int check_gate(CpuState* c, u32 selector, u32 ar) noexcept nogil:
    """Check the privilege of a gate or a TSS, and that a gate is present (SDM 3A 5.8.4)."""
    if dpl_of(ar) < c.arch.cpl or dpl_of(ar) < selector & 3:
        return raise_err(c, VEC_GP, selector_error(selector))
    if not ar & AR_P:
        return raise_err(c, VEC_NP, selector_error(selector))
    return 0


cdef int read_wide_gate(CpuState* c, Target* t) noexcept nogil:
    """Read a 64-bit call gate (SDM 3A 5.8.3.1)."""
    cdef Descriptor gate
    cdef int result = read_wide_descriptor(c, t.selector, &gate)
    if result == EMU_FAULT:
        return EMU_FAULT
    if (result == DESC_OUTSIDE or gate.ar & 0x1F != SYS_CALL_GATE or
            <u32>(gate.high >> 40) & 0x1F):
        return raise_err(c, VEC_GP, selector_error(t.selector))
    if check_gate(c, t.selector, gate.ar):
        return EMU_FAULT
    t.size = 8
    t.selector = <u32>(gate.low >> 16) & 0xFFFF
    t.rip = (gate.low & 0xFFFF) | ((gate.low >> 32) & <u64>0xFFFF0000) | (gate.high << 32)
    return 0


cdef int read_gate(CpuState* c, Target* t) noexcept nogil:
    """Read a 16- or 32-bit call gate, whose descriptor is in t.d."""
    cdef u64 gate = t.d.low
    if check_gate(c, t.selector, t.d.ar):
        return EMU_FAULT
    t.selector = <u32>(gate >> 16) & 0xFFFF
    t.rip = gate & 0xFFFF
    t.count = <u32>(gate >> 32) & 0x1F
    t.size = 2
    if t.d.ar & 0x1F == SYS_CALL_GATE:
        t.size = 4
        t.rip |= (gate >> 32) & <u64>0xFFFF0000
    return 0


cdef int pass_gate(CpuState* c, bint jump, Target* t) noexcept nogil:
    """Go through the call gate of the target to the code segment that it names."""
    if read_wide_gate(c, t) if long_mode(c) else read_gate(c, t):
        return EMU_FAULT
    t.way = WAY_GATE
    if is_null(t.selector):
        return raise_err(c, VEC_GP, 0)
    if require(c, t.selector, &t.d):
        return EMU_FAULT
    if not is_code(t.d.ar) or dpl_of(t.d.ar) > c.arch.cpl:
        return raise_err(c, VEC_GP, selector_error(t.selector))
    if long_mode(c) and (not t.d.ar & AR_L or t.d.ar & AR_DB):
        return raise_err(c, VEC_GP, selector_error(t.selector))
    # A jump cannot change the CPL.
    if jump and not t.d.ar & AR_CONFORMING and dpl_of(t.d.ar) != c.arch.cpl:
        return raise_err(c, VEC_GP, selector_error(t.selector))
    if not t.d.ar & AR_P:
        return raise_err(c, VEC_NP, selector_error(t.selector))
    return 0


cdef int name_task(CpuState* c, Target* t) noexcept nogil:
    """Find the task that a TSS's selector or a task gate names (SDM 3A 7.3)."""
    cdef u32 kind = t.d.ar & 0x1F
    t.way = WAY_TASK
    if kind == SYS_TASK_GATE:
        if check_gate(c, t.selector, t.d.ar):
            return EMU_FAULT
        t.selector = <u32>(t.d.low >> 16) & 0xFFFF
    elif dpl_of(t.d.ar) < c.arch.cpl or dpl_of(t.d.ar) < t.selector & 3:
        return raise_err(c, VEC_GP, selector_error(t.selector))
    return find_task(c, t.selector, TASK_JMP, &t.d)


cdef int far_target(CpuState* c, bint jump, Target* t) noexcept nogil:
    """Find the target of a far jump or call whose pointer is in `t`, by its descriptor."""
    cdef u32 kind
    if is_null(t.selector):
        return raise_err(c, VEC_GP, 0)
    if require(c, t.selector, &t.d):
        return EMU_FAULT
    if is_code(t.d.ar):
        return check_same_ring(c, t.selector, &t.d)
    kind = t.d.ar & 0x1F
    if kind == SYS_CALL_GATE or (kind == SYS_CALL_GATE16 and not long_mode(c)):
        return pass_gate(c, jump, t)
    if not long_mode(c) and (
            kind == SYS_TASK_GATE or kind == SYS_TSS_AVAILABLE or kind == SYS_TSS_BUSY
            or kind == SYS_TSS16_AVAILABLE or kind == SYS_TSS16_BUSY):
        return name_task(c, t)
    return raise_err(c, VEC_GP, selector_error(t.selector))


cdef int enter_task(CpuState* c, OpInfo* op, Target* t, u32 cause) noexcept nogil:
    if switch_task(c, &t.d, cause, next_rip(c, op), get_rflags(c) & ~<u64>FLAG_RF):
        return EMU_FAULT
    return EMU_FAULT if begin_task(c) else EMU_FLOW


cdef int op_jmp_far(CpuState* c, OpInfo* op) noexcept nogil:
    cdef Target t
    if read_target(c, op, &t):
        return EMU_FAULT
    if paragraphs(c):
        if check_paragraph_target(c, t.rip):
            return EMU_FAULT
        enter_paragraph(c, t.selector, t.rip)
        return EMU_FLOW
    if far_target(c, True, &t):
        return EMU_FAULT
    if t.way == WAY_TASK:
        return enter_task(c, op, &t, TASK_JMP)
    if check_target(c, t.d.ar, t.d.limit, t.rip) or mark_accessed(c, &t.d):
        return EMU_FAULT
    enter_code(c, &t.d, t.selector, c.arch.cpl, t.rip)
    return EMU_FLOW


cdef int call_inner_wide(CpuState* c, OpInfo* op, Target* t) noexcept nogil:
    """Call through a 64-bit gate to an inner ring: new stack from the TSS, null SS."""
    cdef u64 frame[4]
    cdef u64 rsp = 0
    cdef u32 cpl = dpl_of(t.d.ar)
    cdef u32 offset = 4 + 8 * cpl
    if c.arch.tr.ar & AR_UNUSABLE or <u64>offset + 7 > c.arch.tr.limit:
        return raise_err(c, VEC_TS, selector_error(c.arch.tr.selector))
    if read_bytes(c, c.arch.tr.base + offset, &rsp, 8, 0):
        return EMU_FAULT
    frame[0] = next_rip(c, op)
    frame[1] = c.arch.seg[SEG_CS].selector
    frame[2] = c.arch.gpr[RSP]
    frame[3] = c.arch.seg[SEG_SS].selector
    if check_target(c, t.d.ar, t.d.limit, t.rip) or mark_accessed(c, &t.d):
        return EMU_FAULT
    if push_frame(c, rsp, frame, 4, 0):
        return EMU_FAULT
    c.arch.gpr[RSP] = rsp - 32
    load_null(&c.arch.seg[SEG_SS], cpl, cpl)
    enter_code(c, &t.d, t.selector, cpl, t.rip)
    return EMU_FLOW


cdef int read_parameters(CpuState* c, u64* values, u32 count, u32 size) noexcept nogil:
    """Read what a call gate copies from the present stack; a call leaves it there."""
    cdef u64 linear[MAX_VALUES]
    cdef u32 i
    if locate_values(c, &c.arch.seg[SEG_SS], c.arch.gpr[RSP], count, size, 0, 0, linear):
        return EMU_FAULT
    for i in range(count):
        if load(c, linear[i], size, &values[i]):
            return EMU_FAULT
    return 0


cdef int call_inner(CpuState* c, OpInfo* op, Target* t) noexcept nogil:
    """Call through a 16- or 32-bit gate to an inner ring, with its parameters (SDM 3A 5.8.5)."""
    cdef u64 words[MAX_VALUES]
    cdef InnerStack stack
    cdef u32 cpl = dpl_of(t.d.ar)
    if read_inner_stack(c, cpl, &stack):
        return EMU_FAULT
    if check_room(c, &stack.ss, stack.rsp, 4 + t.count, t.size, stack.error):
        return EMU_FAULT
    if check_target(c, t.d.ar, t.d.limit, t.rip):
        return EMU_FAULT
    if read_parameters(c, &words[2], t.count, t.size) or mark_accessed(c, &t.d):
        return EMU_FAULT
    words[0] = next_rip(c, op)
    words[1] = c.arch.seg[SEG_CS].selector
    words[2 + t.count] = c.arch.gpr[RSP]
    words[3 + t.count] = c.arch.seg[SEG_SS].selector
    if push_on(c, &stack.ss, &stack.rsp, words, 4 + t.count, t.size, 0, stack.error):
        return EMU_FAULT
    c.arch.gpr[RSP] = stack.rsp
    c.arch.seg[SEG_SS] = stack.ss
    enter_code(c, &t.d, t.selector, cpl, t.rip)
    return EMU_FLOW


cdef int check_call_room(CpuState* c, u32 size) noexcept nogil:
    """Check that the present stack has room for CS and the instruction pointer."""
    if mode64(c):
        return check_stack(c, c.arch.gpr[RSP] - 2 * size, 2 * size)
    return check_room(c, &c.arch.seg[SEG_SS], c.arch.gpr[RSP], 2, size, 0)


cdef int op_call_far(CpuState* c, OpInfo* op) noexcept nogil:
    cdef Target t
    cdef u64 words[2]
    cdef u64 rsp = c.arch.gpr[RSP]
    if read_target(c, op, &t):
        return EMU_FAULT
    words[0] = next_rip(c, op)
    words[1] = c.arch.seg[SEG_CS].selector
    if paragraphs(c):
        if check_call_room(c, t.size) or check_paragraph_target(c, t.rip):
            return EMU_FAULT
        if push_values(c, &rsp, words, 2, t.size):
            return EMU_FAULT
        c.arch.gpr[RSP] = rsp
        enter_paragraph(c, t.selector, t.rip)
        return EMU_FLOW
    if far_target(c, False, &t):
        return EMU_FAULT
    if t.way == WAY_TASK:
        return enter_task(c, op, &t, TASK_CALL)
    if t.way == WAY_GATE and not t.d.ar & AR_CONFORMING and dpl_of(t.d.ar) < c.arch.cpl:
        return call_inner_wide(c, op, &t) if long_mode(c) else call_inner(c, op, &t)
    if check_call_room(c, t.size) or check_target(c, t.d.ar, t.d.limit, t.rip):
        return EMU_FAULT
    if mark_accessed(c, &t.d) or push_values(c, &rsp, words, 2, t.size):
        return EMU_FAULT
    c.arch.gpr[RSP] = rsp
    enter_code(c, &t.d, t.selector, c.arch.cpl, t.rip)
    return EMU_FLOW
