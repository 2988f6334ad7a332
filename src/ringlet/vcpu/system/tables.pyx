"""GDTR, IDTR, LDTR and TR, and LAR, LSL, VERR and VERW (SDM 3A 2.4, 5.10)."""
from ringlet.core.state cimport (
    AR_P, AR_S, EMU_FAULT, EMU_NEXT, FLAG_ZF, KEY_MODE64, Segment, TableReg, VEC_GP, VEC_NP,
    is_canonical, raise_err)
from ringlet.vcpu.system.descriptors cimport (
    DESC_OK, DESC_OUTSIDE, Descriptor, SYS_CALL_GATE, SYS_LDT, SYS_TSS_AVAILABLE, SYS_TSS_BUSY,
    read_wide_descriptor, is_null, load_cache, load_null, read_descriptor, selector_error)
from ringlet.vcpu.system.memory cimport (
    check_read, check_write, load, read_bytes, store, user_access, write_bytes)
from ringlet.vcpu.system.registers cimport (
    AR_CODE, AR_CONFORMING, AR_READABLE, AR_WRITABLE, dpl_of, write_gpr)


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


cdef int load_table(CpuState* c, TableReg* table) noexcept nogil:
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
    for i in range(size - 2):
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
    return load_table(c, &c.arch.gdtr)


cdef int op_lidt(CpuState* c, OpInfo* op) noexcept nogil:
    return load_table(c, &c.arch.idtr)


cdef int store_selector(CpuState* c, OpInfo* op, u32 selector) noexcept nogil:
    if op.rm == 0xFF:
        return store(c, c.ea, 2, selector)
    write_gpr(c, op.rm, selector, op.size)
    return EMU_NEXT


cdef int op_sldt(CpuState* c, OpInfo* op) noexcept nogil:
    return store_selector(c, op, c.arch.ldtr.selector)


cdef int op_str(CpuState* c, OpInfo* op) noexcept nogil:
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
    """Read the 16-byte descriptor for LLDT or LTR: in the GDT, of type `kind`, valid, present."""
    cdef int result
    if selector & 4:
        return raise_err(c, VEC_GP, selector_error(selector))
    result = read_wide_descriptor(c, selector, d)
    if result == EMU_FAULT:
        return EMU_FAULT
    if result == DESC_OUTSIDE or d.ar & 0x1F != kind or <u32>(d.high >> 40) & 0x1F:
        return raise_err(c, VEC_GP, selector_error(selector))
    if not d.ar & AR_P:
        return raise_err(c, VEC_NP, selector_error(selector))
    if not is_canonical(d.base):
        return raise_err(c, VEC_GP, selector_error(selector))
    return 0


cdef int op_lldt(CpuState* c, OpInfo* op) noexcept nogil:
    cdef u32 selector = 0
    cdef Descriptor d
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
    """Read the source operand's descriptor: DESC_OK, DESC_OUTSIDE (also if null) or EMU_FAULT."""
    if source_selector(c, op, selector):
        return EMU_FAULT
    if is_null(selector[0]):
        return DESC_OUTSIDE
    return read_descriptor(c, selector[0], d)


cdef int op_lar(CpuState* c, OpInfo* op) noexcept nogil:
    cdef u32 selector = 0
    cdef u32 kind
    cdef Descriptor d
    cdef int result = inspect(c, op, &selector, &d)
    if result == EMU_FAULT:
        return EMU_FAULT
    kind = d.ar & 15
    if result == DESC_OUTSIDE or not visible(c, selector, &d) or (
            not d.ar & AR_S and kind != SYS_LDT and kind != SYS_TSS_AVAILABLE and
            kind != SYS_TSS_BUSY and kind != SYS_CALL_GATE):
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
            not d.ar & AR_S and kind != SYS_LDT and kind != SYS_TSS_AVAILABLE and
            kind != SYS_TSS_BUSY):
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
