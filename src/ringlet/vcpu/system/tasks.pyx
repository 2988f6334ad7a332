"""Task switches: JMP, CALL, IRET and events to a 16- or 32-bit TSS (SDM 3A 7.2-7.4).

The new task's TSS is read, and everything that will be written is checked, before anything changes.
TR is the point of no return: what is loaded after it belongs to the new task, and so do the faults
of its segments.
"""
from ringlet.core.state cimport (
    RSP, SEG_CS, AR_P, AR_UNUSABLE, EMU_FAULT, FLAG_NT, VEC_DB, VEC_GP,
    VEC_NP, VEC_TS, get_rflags, raise_err, raise_exc, set_rflags)
from ringlet.vcpu.system.code cimport check_target
from ringlet.vcpu.system.control cimport update_key, write_cr3
from ringlet.vcpu.system.descriptors cimport (
    DESC_OUTSIDE, SYS_BUSY, SYS_TSS16_AVAILABLE, SYS_TSS_AVAILABLE, is_null, load_cache,
    read_descriptor, selector_error)
from ringlet.vcpu.system.memory cimport check_write, push_values, read_bytes, write_bytes
from ringlet.vcpu.system.registers cimport (
    CR0_PG, CR0_TS, DR6_BT, DR7_LOCAL, SYS_32_BIT)
from ringlet.vcpu.system.task_segments cimport load_task_segments

# The layout of a TSS (SDM 3A figures 7-2 and 7-10); fields have 2 bytes in a 16-bit TSS, else 4.
cdef enum:
    TSS_SIZE = 104
    TSS_SIZE16 = 44
    TSS_CR3 = 28
    TSS_LDT = 96
    TSS_LDT16 = 42
    TSS_STATE = 32       # EIP, EFLAGS, eight registers, ES, CS, SS, DS, FS, GS: these are saved
    TSS_STATE16 = 14     # the same, without FS and GS
    TSS_TRAP = 100       # bit 0: T
    FIELDS = 16          # of the saved state
    FIELDS16 = 14


cdef inline bint is_wide(u32 ar) noexcept nogil:
    return ar & SYS_32_BIT != 0


cdef int find_task(CpuState* c, u32 selector, u32 cause, Descriptor* tss) noexcept nogil:
    """Read and check the descriptor of a task's TSS, which is in the GDT.

    Faults: #GP(selector), for IRET #TS(selector); #NP(selector).
    """
    cdef u32 vector = VEC_TS if cause == TASK_IRET else VEC_GP
    cdef u32 busy = SYS_BUSY if cause == TASK_IRET else 0
    cdef u32 kind
    cdef int result = DESC_OUTSIDE
    if not is_null(selector) and not selector & 4:
        result = read_descriptor(c, selector, tss)
        if result == EMU_FAULT:
            return EMU_FAULT
    if result == DESC_OUTSIDE:
        return raise_err(c, vector, selector_error(selector))
    kind = tss.ar & 0x1F ^ busy
    if kind != SYS_TSS_AVAILABLE and kind != SYS_TSS16_AVAILABLE:
        return raise_err(c, vector, selector_error(selector))
    if not tss.ar & AR_P:
        return raise_err(c, VEC_NP, selector_error(selector))
    return 0


cdef int set_busy(CpuState* c, u32 selector, bint busy, bint check) noexcept nogil:
    """Set or clear the busy bit of a TSS's descriptor, or (`check`) only make sure that one can."""
    cdef u64 linear = (c.arch.gdtr.base + (selector & 0xFFF8) + 5) & <u64>0xFFFFFFFF
    cdef u8 access = 0
    if check:
        return check_write(c, linear, 1, 0)
    if read_bytes(c, linear, &access, 1, 0):
        return EMU_FAULT
    access = <u8>(access | SYS_BUSY if busy else access & ~<u32>SYS_BUSY)
    return write_bytes(c, linear, &access, 1, 0)


cdef u32 save_state(CpuState* c, u8* image, bint wide, u64 rip, u64 rflags) noexcept nogil:
    """Make the image of the state that a task's TSS keeps; return its size."""
    cdef u32 fields[FIELDS]
    cdef u32 i
    fields[0] = <u32>rip
    fields[1] = <u32>rflags
    for i in range(8):
        fields[2 + i] = <u32>c.arch.gpr[i]
    for i in range(6):
        fields[10 + i] = c.arch.seg[i].selector
    if wide:
        for i in range(FIELDS):
            (<u32*>image)[i] = fields[i]
        return 4 * FIELDS
    for i in range(FIELDS16):
        (<u16*>image)[i] = <u16>fields[i]
    return 2 * FIELDS16


cdef void load_state(u8* image, bint wide, u32* fields) noexcept nogil:
    """Read the saved state of a TSS; a 16-bit one has no FS and GS, and half of the registers.

    The SDM leaves the upper halves open; here they become 0.
    """
    cdef u32 i
    for i in range(FIELDS):
        if wide:
            fields[i] = (<u32*>(image + TSS_STATE))[i]
        else:
            fields[i] = (<u16*>(image + TSS_STATE16))[i] if i < FIELDS16 else 0


cdef int check_old(CpuState* c, bint wide) noexcept nogil:
    """Check that the present task's state can be saved."""
    cdef u32 start = TSS_STATE if wide else TSS_STATE16
    cdef u32 size = 4 * FIELDS if wide else 2 * FIELDS16
    if c.arch.tr.ar & AR_UNUSABLE or start + size - 1 > c.arch.tr.limit:
        return raise_err(c, VEC_TS, selector_error(c.arch.tr.selector))
    return check_write(c, c.arch.tr.base + start, size, 0)


cdef int read_task(CpuState* c, Descriptor* tss, u8* image) noexcept nogil:
    cdef u32 size = TSS_SIZE if is_wide(tss.ar) else TSS_SIZE16
    if tss.limit < size - 1:
        return raise_err(c, VEC_TS, selector_error(tss.selector))
    return read_bytes(c, tss.base, image, size, 0)


cdef int leave_task(CpuState* c, Descriptor* tss, u32 cause, u64 rip, u64 rflags) noexcept nogil:
    """Save the present task, and write busy bits and the back link."""
    cdef u8 image[4 * FIELDS]
    cdef bint wide = is_wide(c.arch.tr.ar)
    cdef u32 size
    cdef u16 link = c.arch.tr.selector
    if check_old(c, wide):
        return EMU_FAULT
    if cause != TASK_CALL and set_busy(c, c.arch.tr.selector, False, True):
        return EMU_FAULT
    if cause != TASK_IRET and set_busy(c, tss.selector, True, True):
        return EMU_FAULT
    if cause == TASK_CALL and check_write(c, tss.base, 2, 0):
        return EMU_FAULT
    size = save_state(c, image, wide, rip, rflags)
    if write_bytes(c, c.arch.tr.base + (TSS_STATE if wide else TSS_STATE16), image, size, 0):
        return EMU_FAULT
    if cause == TASK_CALL and write_bytes(c, tss.base, &link, 2, 0):
        return EMU_FAULT
    if cause != TASK_CALL and set_busy(c, c.arch.tr.selector, False, False):
        return EMU_FAULT
    return set_busy(c, tss.selector, True, False) if cause != TASK_IRET else 0


cdef int switch_task(CpuState* c, Descriptor* tss, u32 cause, u64 rip, u64 rflags) noexcept nogil:
    """Switch to the task `tss`, which `find_task` has checked: 0 or EMU_FAULT."""
    cdef u8 image[TSS_SIZE]
    cdef u32 fields[FIELDS]
    cdef u32 selectors[6]
    cdef u32 i
    cdef bint wide = is_wide(tss.ar)
    if read_task(c, tss, image):
        return EMU_FAULT
    if cause == TASK_IRET:
        rflags &= ~<u64>FLAG_NT
    if leave_task(c, tss, cause, rip, rflags):
        return EMU_FAULT
    tss.ar |= SYS_BUSY
    load_cache(&c.arch.tr, tss, tss.selector)
    load_state(image, wide, fields)
    c.arch.cr0 |= CR0_TS
    c.arch.dr[7] &= ~<u64>DR7_LOCAL
    c.arch.inhibit = 0
    c.arch.halted = 0
    c.arch.rip = fields[0]
    set_rflags(c, fields[1] | (FLAG_NT if cause == TASK_CALL else 0))
    for i in range(8):
        c.arch.gpr[i] = fields[2 + i]
    for i in range(6):
        selectors[i] = fields[10 + i] & 0xFFFF
    if wide and c.arch.cr0 & CR0_PG:
        if write_cr3(c, (<u32*>(image + TSS_CR3))[0]) == EMU_FAULT:
            update_key(c)
            return EMU_FAULT
    return load_task_segments(c, selectors, (<u16*>(image + (TSS_LDT if wide else TSS_LDT16)))[0])


cdef int push_task_error(CpuState* c, u32 error) noexcept nogil:
    """Push an error code on the new task's stack, in the size of its TSS (SDM 3A 6.13)."""
    cdef u64 rsp = c.arch.gpr[RSP]
    cdef u64 value = error
    if push_values(c, &rsp, &value, 1, 4 if is_wide(c.arch.tr.ar) else 2):
        return EMU_FAULT
    c.arch.gpr[RSP] = rsp
    return 0


cdef int begin_task(CpuState* c) noexcept nogil:
    """Check the new task's EIP, and raise its debug trap if its TSS asks for one (SDM 3A 7.2.1)."""
    cdef u8 flags = 0
    if check_target(c, c.arch.seg[SEG_CS].ar, c.arch.seg[SEG_CS].limit, c.arch.rip):
        return EMU_FAULT
    if not is_wide(c.arch.tr.ar):
        return 0
    if read_bytes(c, c.arch.tr.base + TSS_TRAP, &flags, 1, 0):
        return EMU_FAULT
    if not flags & 1:
        return 0
    c.exc_dr6 = DR6_BT
    return raise_exc(c, VEC_DB)


cdef int return_from_task(CpuState* c, u64 rip) noexcept nogil:
    """Return to the task that the back link of the TSS names: 0 or EMU_FAULT."""
    cdef Descriptor tss
    cdef u16 link = 0
    if c.arch.tr.ar & AR_UNUSABLE or c.arch.tr.limit < 1:
        return raise_err(c, VEC_TS, selector_error(c.arch.tr.selector))
    if read_bytes(c, c.arch.tr.base, &link, 2, 0):
        return EMU_FAULT
    if find_task(c, link, TASK_IRET, &tss):
        return EMU_FAULT
    if switch_task(c, &tss, TASK_IRET, rip, get_rflags(c)):
        return EMU_FAULT
    return begin_task(c)
