"""Flags, software interrupts, HLT and ENTER."""
from ringlet.core.state cimport (
    RBP, RSP, SEG_CS, SEG_SS, ACC_WRITE, EMU_EXIT, EMU_FAULT, EMU_FLOW, EMU_NEXT, EXIT_HLT,
    FLAG_AC, FLAG_AF, FLAG_CF,
    FLAG_DF, FLAG_ID, FLAG_IF, FLAG_IOPL, FLAG_NT, FLAG_OF, FLAG_PF, FLAG_RF, FLAG_SF, FLAG_TF,
    FLAG_VIF, FLAG_VIP, FLAG_VM, FLAG_ZF, VEC_GP, VEC_OF, VEC_SS, get_rflags, is_canonical,
    raise_err, set_rflags)
from ringlet.vcpu.system.control cimport update_key
from ringlet.vcpu.loop.events cimport SHADOW_STI, event_due, nmi_due
from ringlet.vcpu.loop.exceptions cimport software_interrupt
from ringlet.vcpu.system.descriptors cimport load_paragraph
from ringlet.vcpu.system.memory cimport (
    check_write, load, locate_values, pop_value, push_values, read_bytes, stack_step, user_access)
from ringlet.vcpu.system.registers cimport (
    CR4_PVI, CR4_VME, SYS_32_BIT, TSS_IO_MAP_BASE, advance, iopl, mode64, next_rip, virtual_8086,
    write_gpr)


cdef bint event_waits(CpuState* c) noexcept nogil:
    """Whether an interrupt, a request or an NMI waits, which the run loop has to handle now."""
    return c.intr != 0 or c.attention != 0 or nmi_due(c)


cdef bint may_change_if(CpuState* c) noexcept nogil:
    """Whether CLI and STI change IF itself: CPL is IOPL or less, in virtual-8086 mode IOPL is 3."""
    return c.arch.cpl <= iopl(c)


cdef bint virtual_if(CpuState* c) noexcept nogil:
    """Whether CLI and STI change VIF where they may not change IF (SDM 3A 20.3, 20.4)."""
    if virtual_8086(c):
        return c.arch.cr4 & CR4_VME != 0
    return c.arch.cpl == 3 and c.arch.cr4 & CR4_PVI != 0


cdef bint virtual_interrupt_due(CpuState* c) noexcept nogil:
    """Whether VIF and VIP raise #GP(0) before the next instruction (SDM 3A 20.3.2, 20.4).

    They may both be set after IRET, a task switch, or another way to CPL 3.
    """
    return (c.arch.rflags & (FLAG_VIF | FLAG_VIP) == FLAG_VIF | FLAG_VIP
            and c.arch.cpl == 3 and iopl(c) < 3 and virtual_if(c))


cdef bint flags_denied(CpuState* c, u32 size) noexcept nogil:
    """Whether PUSHF, POPF and IRET raise #GP(0): in virtual-8086 mode with an IOPL below 3.

    With CR4.VME their 16-bit forms use VIF instead of IF.
    """
    return virtual_8086(c) and iopl(c) < 3 and (not c.arch.cr4 & CR4_VME or size != 2)


cdef bint flags_virtual(CpuState* c) noexcept nogil:
    """Whether VIF stands for IF in PUSHF, POPF and IRET, once they are not denied."""
    return virtual_8086(c) and iopl(c) < 3


cdef u64 virtual_image(CpuState* c) noexcept nogil:
    """Return 16 bits of flags as the program sees them: IF is VIF, and IOPL is 3."""
    cdef u64 image = get_rflags(c) & 0xFFFF & ~<u64>FLAG_IF | FLAG_IOPL
    return image | FLAG_IF if c.arch.rflags & FLAG_VIF else image


cdef int load_virtual_image(CpuState* c, u64 image) noexcept nogil:
    """Load 16 bits of flags where VIF stands for IF: 0 or EMU_FAULT (SDM 2B POPF, 2A IRET)."""
    cdef u64 mask = 0xFFFF & ~<u64>(FLAG_IF | FLAG_IOPL)
    if image & FLAG_TF or (image & FLAG_IF and c.arch.rflags & FLAG_VIP):
        return raise_err(c, VEC_GP, 0)
    set_rflags(c, get_rflags(c) & ~mask & ~<u64>FLAG_VIF | image & mask
               | (<u64>FLAG_VIF if image & FLAG_IF else 0))
    return 0


cdef int op_cli(CpuState* c, OpInfo* op) noexcept nogil:
    if not may_change_if(c):
        if not virtual_if(c):
            return raise_err(c, VEC_GP, 0)
        c.arch.rflags &= ~<u64>FLAG_VIF
        return EMU_NEXT
    c.arch.iflag = 0
    return EMU_NEXT


cdef int op_sti(CpuState* c, OpInfo* op) noexcept nogil:
    """STI: if IF was clear, interrupts wait for one more instruction (SDM 2B)."""
    if not may_change_if(c):
        if not virtual_if(c) or c.arch.rflags & FLAG_VIP:
            return raise_err(c, VEC_GP, 0)
        c.arch.rflags |= FLAG_VIF
        return EMU_NEXT
    if c.arch.iflag:
        return EMU_NEXT
    c.arch.iflag = FLAG_IF
    c.arch.inhibit = SHADOW_STI
    if not event_waits(c):
        return EMU_NEXT
    advance(c, op)
    return EMU_FLOW


cdef int op_pushf(CpuState* c, OpInfo* op) noexcept nogil:
    cdef u64 rsp = c.arch.gpr[RSP]
    cdef u64 image = get_rflags(c) & ~<u64>(FLAG_RF | FLAG_VM)
    if flags_denied(c, op.size):
        return raise_err(c, VEC_GP, 0)
    if flags_virtual(c):
        image = virtual_image(c)
    if push_values(c, &rsp, &image, 1, op.size):
        return EMU_FAULT
    c.arch.gpr[RSP] = rsp
    return EMU_NEXT


cdef int op_popf(CpuState* c, OpInfo* op) noexcept nogil:
    """POPF: sets IOPL only at CPL 0, IF only at CPL <= IOPL, and never VM, VIF or VIP; clears RF.

    In virtual-8086 mode it needs IOPL 3, or CR4.VME and 16-bit operands.  (SDM 2B POPF.)
    """
    cdef u64 image = 0
    cdef u64 old = get_rflags(c)
    cdef u64 rsp = c.arch.gpr[RSP]
    cdef u64 mask = (FLAG_CF | FLAG_PF | FLAG_AF | FLAG_ZF | FLAG_SF | FLAG_TF | FLAG_DF |
                     FLAG_OF | FLAG_NT)
    if flags_denied(c, op.size):
        return raise_err(c, VEC_GP, 0)
    if pop_value(c, &rsp, op.size, &image):
        return EMU_FAULT
    if flags_virtual(c):
        if load_virtual_image(c, image):
            return EMU_FAULT
        c.arch.gpr[RSP] = rsp
        update_key(c)
        return EMU_NEXT
    c.arch.gpr[RSP] = rsp
    if op.size > 2:
        mask |= FLAG_AC | FLAG_ID
        old &= ~<u64>FLAG_RF
    if c.arch.cpl <= iopl(c):
        mask |= FLAG_IF
    if c.arch.cpl == 0:
        mask |= FLAG_IOPL
    image = (old & ~mask) | (image & mask)
    set_rflags(c, image)
    if (image ^ old) & FLAG_TF:
        update_key(c)
    elif not image & ~old & FLAG_IF or not event_waits(c):
        return EMU_NEXT
    advance(c, op)
    return EMU_FLOW


cdef int redirected(CpuState* c, u32 vector, bint* to_program) noexcept nogil:
    """Read the redirection bit of INT n in virtual-8086 mode with CR4.VME (SDM 3A 20.3.3.4).

    The 32 bytes of the map end where the I/O permission map of the TSS begins.
    """
    cdef u16 base = 0
    cdef u8 bits = 0
    cdef u64 offset
    if not c.arch.tr.ar & SYS_32_BIT or c.arch.tr.limit < TSS_IO_MAP_BASE + 1:
        return raise_err(c, VEC_GP, 0)
    if read_bytes(c, c.arch.tr.base + TSS_IO_MAP_BASE, &base, 2, 0):
        return EMU_FAULT
    offset = <u64>base - 32 + (vector >> 3)
    if offset > c.arch.tr.limit:
        return raise_err(c, VEC_GP, 0)
    if read_bytes(c, c.arch.tr.base + offset, &bits, 1, 0):
        return EMU_FAULT
    to_program[0] = not bits >> (vector & 7) & 1
    return 0


cdef int enter_program(CpuState* c, OpInfo* op, u32 vector) noexcept nogil:
    """INT n to a handler of the virtual-8086 program itself, by the table at linear address 0."""
    cdef u64 words[3]
    cdef u64 rsp = c.arch.gpr[RSP]
    cdef u64 target = 0
    cdef bint mine = iopl(c) == 3
    if load(c, vector * 4, 4, &target):
        return EMU_FAULT
    words[0] = next_rip(c, op)
    words[1] = c.arch.seg[SEG_CS].selector
    words[2] = get_rflags(c) if mine else virtual_image(c)
    if push_values(c, &rsp, words, 3, 2):
        return EMU_FAULT
    c.arch.gpr[RSP] = rsp
    load_paragraph(c, &c.arch.seg[SEG_CS], <u32>(target >> 16))
    c.arch.rip = target & 0xFFFF
    if mine:
        c.arch.iflag = 0
    else:
        c.arch.rflags &= ~<u64>FLAG_VIF
    c.arch.rflags &= ~<u64>FLAG_TF
    update_key(c)
    return EMU_FLOW


cdef int op_int(CpuState* c, OpInfo* op, u32 vector, u32 kind) noexcept nogil:
    """INT n, INT3 and INT1: a fault in delivery has the instruction's own RIP.

    In virtual-8086 mode INT n needs IOPL 3, or CR4.VME and a clear redirection bit, which sends it
    to the program's own handler; INT3, INTO and INT1 do not (SDM 2A INT n, 3A 20.3.3).
    """
    cdef bint to_program = False
    if kind == SOFT_INT and virtual_8086(c):
        if c.arch.cr4 & CR4_VME and redirected(c, vector, &to_program):
            return EMU_FAULT
        if to_program:
            return enter_program(c, op, vector)
        if iopl(c) < 3:
            return raise_err(c, VEC_GP, 0)
    return software_interrupt(c, vector, next_rip(c, op), kind == SOFT_ICE)


cdef int op_into(CpuState* c, OpInfo* op) noexcept nogil:
    """INTO: INT 4 if OF is 1, but without the rules of virtual-8086 mode for INT n."""
    if not c.arch.rflags & FLAG_OF:
        return EMU_NEXT
    return op_int(c, op, VEC_OF, SOFT_TRAP)


cdef int op_hlt(CpuState* c, OpInfo* op) noexcept nogil:
    """HLT: ends at once if an interrupt or NMI can be taken."""
    if c.arch.cpl:
        return raise_err(c, VEC_GP, 0)
    advance(c, op)
    c.n_halts += 1
    if event_due(c):
        return EMU_FLOW
    c.arch.halted = 1
    c.exit_kind = EXIT_HLT
    return EMU_EXIT


cdef int op_enter(CpuState* c, OpInfo* op) noexcept nogil:
    """ENTER: copies the display of the outer procedures, then allocates (SDM 2A)."""
    cdef u32 size = <u32>op.imm & 0xFFFF
    cdef u32 level = <u32>(op.imm >> 16) & 31
    cdef u32 width = op.size
    cdef u64 value = 0
    cdef u64 source
    cdef u64 rsp = c.arch.gpr[RSP]
    cdef u64 rbp = c.arch.gpr[RBP]
    cdef u64 frame, linear
    if push_values(c, &rsp, &rbp, 1, width):
        return EMU_FAULT
    frame = rsp
    if level:
        while level > 1:
            level -= 1
            rbp = stack_step(c, rbp, -<long>width)
            source = rbp
            if pop_value(c, &source, width, &value):
                return EMU_FAULT
            if push_values(c, &rsp, &value, 1, width):
                return EMU_FAULT
        if push_values(c, &rsp, &frame, 1, width):
            return EMU_FAULT
    rsp = stack_step(c, rsp, -<long>size)
    # ENTER checks the final stack pointer as if it wrote through it.
    linear = rsp
    if not mode64(c):
        if locate_values(c, &c.arch.seg[SEG_SS], rsp, 1, width, ACC_WRITE, 0, &linear):
            return EMU_FAULT
    elif not is_canonical(linear):
        return raise_err(c, VEC_SS, 0)
    if check_write(c, linear, width, user_access(c)):
        return EMU_FAULT
    write_gpr(c, RBP, frame, width)
    c.arch.gpr[RSP] = rsp
    return EMU_NEXT
