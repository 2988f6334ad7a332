"""One event through the real-mode interrupt table or through a gate (SDM 3A 6.10-6.14, 20.1.4).

A gate has 16 bytes in IA-32e mode, else 8; those are of 16 or 32 bits, or name a task.
"""
from ringlet.core.state cimport (
    SEG_ES, SEG_CS, SEG_SS, SEG_DS, SEG_FS, SEG_GS, RSP, AR_P, AR_L, AR_DB, AR_UNUSABLE, EMU_FAULT,
    FLAG_AC, FLAG_TF, FLAG_RF, FLAG_NT, FLAG_VM, ACC_USER, VEC_TS, VEC_NP, VEC_GP, raise_err,
    is_canonical)
from ringlet.vcpu.system.code cimport check_target, is_code
from ringlet.vcpu.system.control cimport update_key
from ringlet.vcpu.system.descriptors cimport (
    Descriptor, SYS_INTERRUPT_GATE, SYS_INTERRUPT_GATE16, SYS_TASK_GATE, SYS_TRAP_GATE,
    SYS_TRAP_GATE16, is_null, load_cache, load_null, load_paragraph, mark_accessed, require,
    selector_error)
from ringlet.vcpu.system.inner cimport InnerStack, read_inner_stack
from ringlet.vcpu.system.memory cimport (
    check_room, push_frame, push_on, push_values, read_bytes)
from ringlet.vcpu.system.registers cimport (
    AR_CONFORMING, SYS_32_BIT, dpl_of, long_mode, real_mode, virtual_8086)
from ringlet.vcpu.system.tasks cimport (
    TASK_CALL, begin_task, find_task, push_task_error, switch_task)


cdef inline u32 idt_error(Event* e) noexcept nogil:
    """Return the error code that names the event's gate (SDM 3A 6.13)."""
    return (e.vector << 3) | 2


cdef int read_gate(CpuState* c, Event* e, void* gate, u32 size) noexcept nogil:
    cdef u32 offset = e.vector * size
    if offset + size - 1 > c.arch.idtr.limit:
        return raise_err(c, VEC_GP, idt_error(e))
    return read_bytes(c, c.arch.idtr.base + offset, gate, size, 0)


cdef int check_gate(CpuState* c, Event* e, u32 access) noexcept nogil:
    """Check a gate's DPL, for INT n and the like, and that it is present."""
    if e.source == FROM_SOFTWARE and dpl_of(access) < c.arch.cpl:
        return raise_err(c, VEC_GP, idt_error(e))
    if not access & AR_P:
        return raise_err(c, VEC_NP, idt_error(e))
    return 0


cdef int read_handler(CpuState* c, u32 selector, Descriptor* cs) noexcept nogil:
    """Read the handler's code segment, which must not be less privileged than the CPL."""
    if is_null(selector):
        return raise_err(c, VEC_GP, 0)
    if require(c, selector, cs):
        return EMU_FAULT
    if not is_code(cs.ar) or dpl_of(cs.ar) > c.arch.cpl:
        return raise_err(c, VEC_GP, selector_error(selector))
    return 0


cdef void enter_handler(CpuState* c, u32 cpl, u64 target, bint masks) noexcept nogil:
    """Enter a handler whose CS is loaded; an interrupt gate `masks` interrupts."""
    c.arch.cpl = cpl
    c.arch.rip = target
    c.arch.rflags &= ~<u64>(FLAG_TF | FLAG_NT | FLAG_RF | FLAG_VM)
    if masks:
        c.arch.iflag = 0
    c.arch.inhibit = 0
    c.arch.halted = 0
    update_key(c)


cdef int tss_stack(CpuState* c, u32 offset, u64* rsp) noexcept nogil:
    """Read a stack pointer of the 64-bit TSS (SDM 3A figure 7-11)."""
    if c.arch.tr.ar & AR_UNUSABLE or <u64>offset + 7 > c.arch.tr.limit:
        return raise_err(c, VEC_TS, selector_error(c.arch.tr.selector))
    return read_bytes(c, c.arch.tr.base + offset, rsp, 8, 0)


cdef int pass_wide(CpuState* c, Event* e) noexcept nogil:
    """Deliver one event in IA-32e mode, through a 64-bit gate (SDM 3A 6.14)."""
    cdef u64 gate[2]
    cdef u64 frame[6]
    cdef u64* words = &frame[0]
    cdef u64 target, rsp
    cdef u32 kind, access, selector, ist, cpl
    cdef u32 count = 5
    cdef Descriptor cs
    if read_gate(c, e, gate, 16):
        return EMU_FAULT
    access = <u32>(gate[0] >> 40) & 0xFF
    kind = access & 0x1F
    if kind != SYS_INTERRUPT_GATE and kind != SYS_TRAP_GATE:
        return raise_err(c, VEC_GP, idt_error(e))
    if check_gate(c, e, access):
        return EMU_FAULT
    selector = <u32>(gate[0] >> 16) & 0xFFFF
    ist = <u32>(gate[0] >> 32) & 7
    target = (gate[0] & 0xFFFF) | ((gate[0] >> 32) & <u64>0xFFFF0000) | (gate[1] << 32)

    if read_handler(c, selector, &cs):
        return EMU_FAULT
    if not cs.ar & AR_L or cs.ar & AR_DB:
        return raise_err(c, VEC_GP, selector_error(selector))
    if not cs.ar & AR_P:
        return raise_err(c, VEC_NP, selector_error(selector))
    cpl = c.arch.cpl if cs.ar & AR_CONFORMING else dpl_of(cs.ar)

    rsp = c.arch.gpr[RSP]
    if ist:
        if tss_stack(c, 36 + 8 * (ist - 1), &rsp):
            return EMU_FAULT
    elif cpl != c.arch.cpl:
        if tss_stack(c, 4 + 8 * cpl, &rsp):
            return EMU_FAULT
    rsp &= ~<u64>15
    if not is_canonical(target):
        return raise_err(c, VEC_GP, 0)
    frame[0] = e.error
    frame[1] = e.rip
    frame[2] = c.arch.seg[SEG_CS].selector
    frame[3] = e.rflags
    frame[4] = c.arch.gpr[RSP]
    frame[5] = c.arch.seg[SEG_SS].selector
    if e.has_error:
        count = 6
    else:
        words = &frame[1]
    if mark_accessed(c, &cs):
        return EMU_FAULT
    if push_frame(c, rsp, words, count, <u32>ACC_USER if cpl == 3 else 0):
        return EMU_FAULT

    c.arch.gpr[RSP] = rsp - 8 * count
    load_cache(&c.arch.seg[SEG_CS], &cs, (selector & 0xFFFC) | cpl)
    if cpl != c.arch.cpl:
        load_null(&c.arch.seg[SEG_SS], cpl, cpl)
    enter_handler(c, cpl, target, kind == SYS_INTERRUPT_GATE)
    return 0


cdef int pass_vector(CpuState* c, Event* e) noexcept nogil:
    """Deliver one event in real mode, through the interrupt table (SDM 3A 20.1.4).

    No error code is pushed.
    """
    cdef u64 words[3]
    cdef u64 rsp = c.arch.gpr[RSP]
    cdef u64 target, entry = 0
    if read_gate(c, e, &entry, 4):
        return EMU_FAULT
    target = entry & 0xFFFF
    words[0] = e.rip
    words[1] = c.arch.seg[SEG_CS].selector
    words[2] = e.rflags
    if check_room(c, &c.arch.seg[SEG_SS], rsp, 3, 2, 0):
        return EMU_FAULT
    if target > c.arch.seg[SEG_CS].limit:
        return raise_err(c, VEC_GP, 0)
    if push_values(c, &rsp, words, 3, 2):
        return EMU_FAULT
    c.arch.gpr[RSP] = rsp
    load_paragraph(c, &c.arch.seg[SEG_CS], <u32>(entry >> 16) & 0xFFFF)
    if entry == 0:
        if c.no_handlers == 0:
            c.no_handler.vector = e.vector
            c.no_handler.source = e.source
        c.no_handlers += 1
    c.arch.iflag = 0
    c.arch.rflags &= ~<u64>(FLAG_TF | FLAG_AC | FLAG_RF)
    c.arch.rip = target
    c.arch.inhibit = 0
    c.arch.halted = 0
    update_key(c)
    return 0


cdef int pass_task(CpuState* c, Event* e, u32 selector) noexcept nogil:
    """Deliver one event through a task gate: the handler is a task of its own (SDM 3A 6.12.2)."""
    cdef Descriptor tss
    if find_task(c, selector, TASK_CALL, &tss):
        return EMU_FAULT
    if switch_task(c, &tss, TASK_CALL, e.rip, e.rflags):
        return EMU_FAULT
    if e.has_error and push_task_error(c, e.error):
        return EMU_FAULT
    return begin_task(c)


cdef u32 interrupted(CpuState* c, Event* e, u64* words) noexcept nogil:
    """Make the frame of a handler on the same stack, the lowest word first; return its length."""
    cdef u32 n = 0
    if e.has_error:
        words[0] = e.error
        n = 1
    words[n] = e.rip
    words[n + 1] = c.arch.seg[SEG_CS].selector
    words[n + 2] = e.rflags
    return n + 3


cdef u32 interrupted_outside(CpuState* c, Event* e, u64* words) noexcept nogil:
    """Make the frame of a handler in an inner ring, which virtual-8086 mode's segments precede."""
    cdef u32 n = interrupted(c, e, words)
    words[n] = c.arch.gpr[RSP]
    words[n + 1] = c.arch.seg[SEG_SS].selector
    if not virtual_8086(c):
        return n + 2
    words[n + 2] = c.arch.seg[SEG_ES].selector
    words[n + 3] = c.arch.seg[SEG_DS].selector
    words[n + 4] = c.arch.seg[SEG_FS].selector
    words[n + 5] = c.arch.seg[SEG_GS].selector
    return n + 6


cdef int enter_inner(CpuState* c, Event* e, Descriptor* cs, u64 target, u32 size) noexcept nogil:
    """Change to the stack of the handler's ring and push the frame there; CS is not loaded yet."""
    cdef u64 words[10]
    cdef InnerStack stack
    cdef u32 count = interrupted_outside(c, e, words)
    cdef u32 cpl = dpl_of(cs.ar)
    if read_inner_stack(c, cpl, &stack):
        return EMU_FAULT
    if check_room(c, &stack.ss, stack.rsp, count, size, stack.error):
        return EMU_FAULT
    if check_target(c, cs.ar, cs.limit, target) or mark_accessed(c, cs):
        return EMU_FAULT
    if push_on(c, &stack.ss, &stack.rsp, words, count, size, 0, stack.error):
        return EMU_FAULT
    c.arch.gpr[RSP] = stack.rsp
    c.arch.seg[SEG_SS] = stack.ss
    if virtual_8086(c):
        load_null(&c.arch.seg[SEG_ES], 0, 0)
        load_null(&c.arch.seg[SEG_DS], 0, 0)
        load_null(&c.arch.seg[SEG_FS], 0, 0)
        load_null(&c.arch.seg[SEG_GS], 0, 0)
    return 0


cdef int enter_same(CpuState* c, Event* e, Descriptor* cs, u64 target, u32 size) noexcept nogil:
    """Push the frame on the present stack."""
    cdef u64 words[4]
    cdef u64 rsp = c.arch.gpr[RSP]
    cdef u32 count = interrupted(c, e, words)
    if check_room(c, &c.arch.seg[SEG_SS], rsp, count, size, 0):
        return EMU_FAULT
    if check_target(c, cs.ar, cs.limit, target) or mark_accessed(c, cs):
        return EMU_FAULT
    if push_values(c, &rsp, words, count, size):
        return EMU_FAULT
    c.arch.gpr[RSP] = rsp
    return 0


cdef int pass_narrow(CpuState* c, Event* e) noexcept nogil:
    """Deliver one event in protected or virtual-8086 mode, outside IA-32e mode (SDM 3A 6.12)."""
    cdef u64 gate = 0
    cdef u64 target
    cdef u32 access, kind, selector, cpl, size
    cdef Descriptor cs
    if read_gate(c, e, &gate, 8):
        return EMU_FAULT
    access = <u32>(gate >> 40) & 0xFF
    kind = access & 0x1F
    selector = <u32>(gate >> 16) & 0xFFFF
    if (kind != SYS_TASK_GATE and kind & ~<u32>SYS_32_BIT != SYS_INTERRUPT_GATE16
            and kind & ~<u32>SYS_32_BIT != SYS_TRAP_GATE16):
        return raise_err(c, VEC_GP, idt_error(e))
    if check_gate(c, e, access):
        return EMU_FAULT
    if kind == SYS_TASK_GATE:
        return pass_task(c, e, selector)
    size = 2
    target = gate & 0xFFFF
    if kind & SYS_32_BIT:
        size = 4
        target |= (gate >> 32) & <u64>0xFFFF0000
    if read_handler(c, selector, &cs):
        return EMU_FAULT
    if not cs.ar & AR_P:
        return raise_err(c, VEC_NP, selector_error(selector))
    cpl = c.arch.cpl if cs.ar & AR_CONFORMING else dpl_of(cs.ar)
    if virtual_8086(c) and cpl:
        return raise_err(c, VEC_GP, selector_error(selector))
    if (enter_inner(c, e, &cs, target, size) if cpl != c.arch.cpl
            else enter_same(c, e, &cs, target, size)):
        return EMU_FAULT
    load_cache(&c.arch.seg[SEG_CS], &cs, (selector & 0xFFFC) | cpl)
    enter_handler(c, cpl, target, kind & ~<u32>SYS_32_BIT == SYS_INTERRUPT_GATE16)
    return 0


cdef int pass_gate(CpuState* c, Event* e) noexcept nogil:
    """Deliver one event through its gate; EMU_FAULT: the new exception is in exc_*."""
    if long_mode(c):
        return pass_wide(c, e)
    return pass_vector(c, e) if real_mode(c) else pass_narrow(c, e)
