"""GDTR, IDTR, LDTR and TR, and LAR, LSL, VERR and VERW (SDM 3A 2.4, 5.10)."""
from ringlet.core.state cimport (
    AR_P, AR_S, EMU_FAULT, EMU_NEXT, FLAG_ZF, KEY_MODE64, Segment, TableReg, VEC_GP, VEC_NP, VEC_UD,
    is_canonical, raise_err, raise_exc)
from ringlet.vcpu.system.descriptors cimport (
    DESC_OK, DESC_OUTSIDE, Descriptor, SYS_CALL_GATE, SYS_LDT, SYS_TSS_AVAILABLE, SYS_TSS_BUSY,
    SYS_CALL_GATE16, SYS_TASK_GATE, SYS_TSS16_AVAILABLE, SYS_TSS16_BUSY, is_null, load_cache,
    load_null, read_descriptor, read_system_descriptor, selector_error)
from ringlet.vcpu.system.flatness cimport hold_segments
from ringlet.vcpu.system.memory cimport (
    check_read, check_write, load, read_bytes, store, user_access, write_bytes)
from ringlet.vcpu.system.registers cimport (
    AR_CODE, AR_CONFORMING, AR_READABLE, AR_WRITABLE, dpl_of, long_mode, paragraphs, write_gpr)


cdef int store_table(CpuState* c, TableReg* table) noexcept nogil:
    """SGDT, SIDT: store 16 bits of limit, then the base; not privileged, as UMIP is hidden."""
    cdef u8 image[10]
    cdef u32 i
    cdef u32 size = 10 if c.key & KEY_MODE64 else 6
    image[0] = <u8>table.limit
    image[1] = <u8>(table.limit >> 8)
    for i in range(8):
        image[2 + i] = <u8>(table.base >> (8 * i))
    if check_write(c, c.ea, size, user_access(c)) or write_bytes(
            c, c.ea, image, 2, user_access(c)):
        return EMU_FAULT
    return write_bytes(c, c.ea + 2, image + 2, size - 2, user_access(c))


cdef int load_table(CpuState* c, OpInfo* op, TableReg* table) noexcept nogil:
    """LGDT, LIDT: the base has 24 bits with 16-bit operands outside 64-bit mode (SDM 2A LGDT)."""
    cdef u8 image[10]
    cdef u64 base = 0
    cdef u32 i
    cdef u32 size = 10 if c.key & KEY_MODE64 else 6
    if c.arch.cpl:
        return raise_err(c, VEC_GP, 0)
    if check_read(c, c.ea, size, user_access(c)) or read_bytes(
            c, c.ea, image, 2, user_access(c)) or read_bytes(
            c, c.ea + 2, image + 2, size - 2, user_access(c)):
        return EMU_FAULT
    for i in range(3 if op.size == 2 and size == 6 else size - 2):
        base |= <u64>image[2 + i] << (8 * i)
    if not is_canonical(base):
        return raise_err(c, VEC_GP, 0)
    table.limit = image[0] | <u32>image[1] << 8
    table.base = base
    return EMU_NEXT


cdef int op_sgdt(CpuState* c, OpInfo* op) noexcept nogil:
    return store_table(c, &c.arch.gdtr)


cdef int op_sidt(CpuState* c, OpInfo* op) noexcept nogil:
    return store_table(c, &c.arch.idtr)


cdef int op_lgdt(CpuState* c, OpInfo* op) noexcept nogil:
    cdef int r = load_table(c, op, &c.arch.gdtr)
    if not c.key & KEY_MODE64:
        hold_segments(c)
    return r


cdef int op_lidt(CpuState* c, OpInfo* op) noexcept nogil:
    return load_table(c, op, &c.arch.idtr)


cdef int store_selector(CpuState* c, OpInfo* op, u32 selector) noexcept nogil:
    if op.rm == 0xFF:
        return store(c, c.ea, 2, selector)
    write_gpr(c, op.rm, selector, op.size)
    return EMU_NEXT


cdef int op_sldt(CpuState* c, OpInfo* op) noexcept nogil:
    if paragraphs(c):
        return raise_exc(c, VEC_UD)
    return store_selector(c, op, c.arch.ldtr.selector)


cdef int op_str(CpuState* c, OpInfo* op) noexcept nogil:
    if paragraphs(c):
        return raise_exc(c, VEC_UD)
    return store_selector(c, op, c.arch.tr.selector)


cdef int source_selector(CpuState* c, OpInfo* op, u32* selector) noexcept nogil:
    cdef u64 value = 0
    if op.rm != 0xFF:
        value = c.arch.gpr[op.rm]
    elif load(c, c.ea, 2, &value):
        return EMU_FAULT
    selector[0] = <u32>value & 0xFFFF
    return 0


cdef int require_system(CpuState* c, u32 selector, u32 kind, Descriptor* d) noexcept nogil:
    """Read the descriptor for LLDT or LTR: in the GDT, of type `kind`, valid, present.

    Outside IA-32e mode a 16-bit TSS will do for LTR too.
    """
    cdef int result
    cdef u32 found
    if selector & 4:
        return raise_err(c, VEC_GP, selector_error(selector))
    result = read_system_descriptor(c, selector, d)
    if result == EMU_FAULT:
        return EMU_FAULT
    found = d.ar & 0x1F
    if kind == SYS_TSS_AVAILABLE and found == SYS_TSS16_AVAILABLE and not long_mode(c):
        found = kind
    if result == DESC_OUTSIDE or found != kind or <u32>(d.high >> 40) & 0x1F:
        return raise_err(c, VEC_GP, selector_error(selector))
    if not d.ar & AR_P:
        return raise_err(c, VEC_NP, selector_error(selector))
    if not is_canonical(d.base):
        return raise_err(c, VEC_GP, selector_error(selector))
    return 0


cdef int op_lldt(CpuState* c, OpInfo* op) noexcept nogil:
    cdef u32 selector = 0
    cdef Descriptor d
    if paragraphs(c):
        return raise_exc(c, VEC_UD)
    if c.arch.cpl:
        return raise_err(c, VEC_GP, 0)
    if source_selector(c, op, &selector):
        return EMU_FAULT
    if is_null(selector):
        load_null(&c.arch.ldtr, selector, 0)
        return EMU_NEXT
    if require_system(c, selector, SYS_LDT, &d):
        return EMU_FAULT
    load_cache(&c.arch.ldtr, &d, selector)
    return EMU_NEXT


cdef int op_ltr(CpuState* c, OpInfo* op) noexcept nogil:
    """LTR: requires an available TSS and marks it busy in memory."""
    cdef u32 selector = 0
    cdef Descriptor d
    cdef u8 access
    if paragraphs(c):
        return raise_exc(c, VEC_UD)
    if c.arch.cpl:
        return raise_err(c, VEC_GP, 0)
    if source_selector(c, op, &selector):
        return EMU_FAULT
    if is_null(selector):
        return raise_err(c, VEC_GP, 0)
    if require_system(c, selector, SYS_TSS_AVAILABLE, &d):
        return EMU_FAULT
    d.ar |= 2
    access = <u8>d.ar
    if write_bytes(c, d.linear + 5, &access, 1, 0):
        return EMU_FAULT
    load_cache(&c.arch.tr, &d, selector)
    return EMU_NEXT


cdef void set_zf(CpuState* c, bint value) noexcept nogil:
    c.arch.rflags &= ~<u64>FLAG_ZF
    if value:
        c.arch.rflags |= FLAG_ZF


cdef bint visible(CpuState* c, u32 selector, Descriptor* d) noexcept nogil:
    """Whether a descriptor is accessible at CPL and RPL; conforming code always is."""
    if d.ar & AR_S and d.ar & AR_CODE and d.ar & AR_CONFORMING:
        return True
    return dpl_of(d.ar) >= c.arch.cpl and dpl_of(d.ar) >= selector & 3


cdef int inspect(CpuState* c, OpInfo* op, u32* selector, Descriptor* d) noexcept nogil:
    """Read the source operand's descriptor: DESC_OK, DESC_OUTSIDE (also if null) or EMU_FAULT.

    LAR, LSL, VERR and VERW are undefined in real and virtual-8086 mode.
    """
    if paragraphs(c):
        return raise_exc(c, VEC_UD)
    if source_selector(c, op, selector):
        return EMU_FAULT
    if is_null(selector[0]):
        return DESC_OUTSIDE
    return read_descriptor(c, selector[0], d)


cdef u32 kinds_of_lsl(CpuState* c) noexcept nogil:
    """Return the types of system descriptors that have a limit, as a bit set (SDM 2A LSL)."""
    cdef u32 wide = 1 << SYS_LDT | 1 << SYS_TSS_AVAILABLE | 1 << SYS_TSS_BUSY
    return wide if long_mode(c) else wide | 1 << SYS_TSS16_AVAILABLE | 1 << SYS_TSS16_BUSY


cdef u32 kinds_of_lar(CpuState* c) noexcept nogil:
    """Return the types of system descriptors that LAR shows, as a bit set (SDM 2A LAR)."""
    cdef u32 kinds = kinds_of_lsl(c) | 1 << SYS_CALL_GATE
    return kinds if long_mode(c) else kinds | 1 << SYS_CALL_GATE16 | 1 << SYS_TASK_GATE


cdef int op_lar(CpuState* c, OpInfo* op) noexcept nogil:
    cdef u32 selector = 0
    cdef u32 kind
    cdef Descriptor d
    cdef int result = inspect(c, op, &selector, &d)
    if result == EMU_FAULT:
        return EMU_FAULT
    kind = d.ar & 15
    if result == DESC_OUTSIDE or not visible(c, selector, &d) or (
            not d.ar & AR_S and not kinds_of_lar(c) >> kind & 1):
        set_zf(c, False)
        return EMU_NEXT
    # Bits 19:16 of the result are undefined; in the descriptor they belong to the limit.
    write_gpr(c, op.reg, (d.low >> 32) & (0xFF00 if op.size == 2 else 0xF0FF00), op.size)
    set_zf(c, True)
    return EMU_NEXT


cdef int op_lsl(CpuState* c, OpInfo* op) noexcept nogil:
    cdef u32 selector = 0
    cdef u32 kind
    cdef Descriptor d
    cdef int result = inspect(c, op, &selector, &d)
    if result == EMU_FAULT:
        return EMU_FAULT
    kind = d.ar & 15
    if result == DESC_OUTSIDE or not visible(c, selector, &d) or (
            not d.ar & AR_S and not kinds_of_lsl(c) >> kind & 1):
        set_zf(c, False)
        return EMU_NEXT
    write_gpr(c, op.reg, d.limit, op.size)
    set_zf(c, True)
    return EMU_NEXT


cdef int op_verr(CpuState* c, OpInfo* op) noexcept nogil:
    cdef u32 selector = 0
    cdef Descriptor d
    cdef int result = inspect(c, op, &selector, &d)
    if result == EMU_FAULT:
        return EMU_FAULT
    set_zf(c, result == DESC_OK and d.ar & AR_S and visible(c, selector, &d) and
           (not d.ar & AR_CODE or d.ar & AR_READABLE))
    return EMU_NEXT


cdef int op_verw(CpuState* c, OpInfo* op) noexcept nogil:
    cdef u32 selector = 0
    cdef Descriptor d
    cdef int result = inspect(c, op, &selector, &d)
    if result == EMU_FAULT:
        return EMU_FAULT
    set_zf(c, result == DESC_OK and d.ar & AR_S and visible(c, selector, &d) and
           not d.ar & AR_CODE and d.ar & AR_WRITABLE)
    return EMU_NEXT
