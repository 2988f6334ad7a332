"""Memory accesses of the virtual processor itself: operands, stacks, descriptor tables.

Accesses are checked before they change anything, so that a fault leaves the guest unchanged.
EMU_FAULT may also mean that a device has to answer (`ringlet.vcpu.system.mmio`).
"""
from ringlet.core.state cimport (
    SEG_SS, AR_DB, ACC_WRITE, ACC_USER, EMU_FAULT, KEY_MODE64, MEM_FAULT, MEM_MMIO, MEM_OK, VEC_PF,
    VEC_SS, raise_err, is_canonical)
from ringlet.mmu.mmu cimport mmu_read, mmu_translate, mmu_write
from ringlet.vcpu.system.mmio cimport device_read, device_write
from ringlet.vcpu.system.registers cimport mode64
from ringlet.vcpu.system.segmented cimport segment_allows
from ringlet.vcpu.debug.watch cimport check_aligned, watch


cdef inline u32 to_the_end(CpuState* c, u64 linear, u32 size) noexcept nogil:
    """Return how many bytes of an access come before the end of linear addresses; the others are at
    0, in 16- and 32-bit code also where linear addresses have 48 bits (SDM 3A 3.3.1)."""
    if c.key & KEY_MODE64 or linear >> 32 or not linear + size >> 32:
        return size
    return <u32>((<u64>1 << 32) - linear)


cdef int read_units(CpuState* c, u64 linear, void* dst, u32 size, u32 unit,
                    u32 access) noexcept nogil:
    """Read bytes as `read_bytes` does; accesses to a device have at most `unit` bytes."""
    cdef u32 part = to_the_end(c, linear, size)
    cdef int result
    if part < size:
        if read_units(c, linear, dst, part, unit, access):
            return EMU_FAULT
        return read_units(c, 0, <u8*>dst + part, size - part, unit, access)
    result = mmu_read(c, linear, dst, size, access)
    if result == MEM_FAULT:
        return EMU_FAULT
    if result == MEM_MMIO:
        return device_read(c, linear, <u8*>dst, size, unit, access)
    return 0


cdef int read_bytes(CpuState* c, u64 linear, void* dst, u32 size, u32 access) noexcept nogil:
    return read_units(c, linear, dst, size, 8, access)


cdef int write_bytes(CpuState* c, u64 linear, const void* src, u32 size, u32 access) noexcept nogil:
    """Write all of the bytes or, on a fault, none."""
    cdef u32 part = to_the_end(c, linear, size)
    cdef int result
    if (linear & 0xFFF) + size > 0x1000:
        if check_write(c, linear, size, access):
            return EMU_FAULT
    if part < size:
        if write_bytes(c, linear, src, part, access):
            return EMU_FAULT
        return write_bytes(c, 0, <const u8*>src + part, size - part, access)
    result = mmu_write(c, linear, src, size, access | ACC_WRITE)
    if result == MEM_FAULT:
        return EMU_FAULT
    if result == MEM_MMIO:
        return device_write(c, linear, <const u8*>src, size, 8, access)
    return 0


cdef int check(CpuState* c, u64 linear, u32 size, u32 access) noexcept nogil:
    cdef u64 phys = 0
    cdef u64 page = linear & ~<u64>0xFFF
    cdef u32 part = to_the_end(c, linear, size)
    cdef u64 last = (linear + part - 1) & ~<u64>0xFFF
    if mmu_translate(c, linear, access, &phys) == MEM_FAULT:
        return EMU_FAULT
    while page != last:
        page += 0x1000
        if mmu_translate(c, page, access, &phys) == MEM_FAULT:
            return EMU_FAULT
    return check(c, 0, size - part, access) if part < size else 0


cdef int check_write(CpuState* c, u64 linear, u32 size, u32 access) noexcept nogil:
    """Raise the exceptions and set the accessed and dirty bits of a write of `size` bytes."""
    return check(c, linear, size, access | ACC_WRITE)


cdef int check_read(CpuState* c, u64 linear, u32 size, u32 access) noexcept nogil:
    return check(c, linear, size, access)


cdef int load(CpuState* c, u64 linear, u32 size, u64* value) noexcept nogil:
    """Read a data operand of 1 to 8 bytes at the current privilege, zero-extended."""
    value[0] = 0
    if check_aligned(c, linear, size) or read_bytes(c, linear, value, size, user_access(c)):
        return EMU_FAULT
    watch(c, linear, size, False)
    return 0


cdef int store(CpuState* c, u64 linear, u32 size, u64 value) noexcept nogil:
    if check_aligned(c, linear, size) or write_bytes(c, linear, &value, size, user_access(c)):
        return EMU_FAULT
    watch(c, linear, size, True)
    return 0


cdef u64 stack_step(CpuState* c, u64 rsp, i64 delta) noexcept nogil:
    """Return the stack pointer moved by `delta`, at the stack's address size (SDM 1 6.2.5)."""
    if mode64(c):
        return rsp + delta
    return stack_moved(&c.arch.seg[SEG_SS], rsp, delta)


cdef u64 stack_moved(Segment* ss, u64 rsp, i64 delta) noexcept nogil:
    """Return the pointer of a stack in `ss`, moved by `delta`, outside 64-bit mode."""
    if ss.ar & AR_DB:
        return (rsp + delta) & <u64>0xFFFFFFFF
    return (rsp & ~<u64>0xFFFF) | ((rsp + delta) & 0xFFFF)


cdef int check_stack(CpuState* c, u64 linear, u32 size) noexcept nogil:
    """Raise #SS(0), not #GP(0), for a non-canonical stack reference (SDM 3A 6.15)."""
    if is_canonical(linear) and is_canonical(linear + size - 1):
        return 0
    return raise_err(c, VEC_SS, 0)


cdef int locate_values(CpuState* c, Segment* ss, u64 rsp, u32 count, u32 size, u32 access,
                       u32 error, u64* linear) noexcept nogil:
    """Check `count` values of a stack outside 64-bit mode, and give the address of each.

    The value at `rsp` is the first.  Each has an offset of its own, as the pointer of a 16-bit
    stack wraps between two values.
    `error`: error code of #SS, which names a stack that is not in SS yet.
    """
    cdef u64 mask = <u64>0xFFFFFFFF if ss.ar & AR_DB else <u64>0xFFFF
    cdef u64 offset
    cdef u32 i
    for i in range(count):
        offset = (rsp + i * size) & mask
        if not segment_allows(c, ss, False, offset, size, access):
            return raise_err(c, VEC_SS, error)
        linear[i] = (ss.base + offset) & <u64>0xFFFFFFFF
    return 0


cdef int check_room(CpuState* c, Segment* ss, u64 rsp, u32 count, u32 size,
                    u32 error) noexcept nogil:
    """Check that a stack outside 64-bit mode has room for `count` values below `rsp`.

    Far calls and events check this before the limit of their target (SDM 2A CALL, INT n).
    """
    cdef u64 linear[MAX_VALUES]
    cdef u64 top = stack_moved(ss, rsp, -<i64>(count * size))
    return locate_values(c, ss, top, count, size, ACC_WRITE, error, linear)


cdef void find_pop_fault(CpuState* c, u64 linear, u32 count, u32 size) noexcept nogil:
    """Put into CR2 the address of the value at which a processor would fault first.

    Returns read RFLAGS, CS and RIP in this order, then SS and RSP.
    """
    cdef u8 value[8]
    cdef u32 first = 3 if count > 3 else count
    cdef u32 i
    for i in range(first):
        if read_bytes(c, linear + (first - 1 - i) * size, value, size, user_access(c)):
            return
    for i in range(count - first):
        if read_bytes(c, linear + (count - 1 - i) * size, value, size, user_access(c)):
            return


cdef int pop_values(CpuState* c, u64* rsp, u64* words, u32 count, u32 size) noexcept nogil:
    """Pop `count` (at most 8) values from the stack at `rsp[0]`, which moves; words[0] is lowest.

    The caller writes the register itself, once nothing can fault any more.
    """
    cdef u8 image[64]
    cdef u64 linear = rsp[0]
    cdef u32 i, j
    if not mode64(c):
        return pop_narrow(c, rsp, words, count, size)
    if check_stack(c, linear, count * size) or check_aligned(c, linear, size):
        return EMU_FAULT
    if read_units(c, linear, image, count * size, size, user_access(c)):
        if c.exc_vector == VEC_PF and not c.device_waits:
            find_pop_fault(c, linear, count, size)
        return EMU_FAULT
    for i in range(count):
        words[i] = 0
        for j in range(size):
            words[i] |= <u64>image[i * size + j] << (8 * j)
    watch(c, linear, count * size, False)
    rsp[0] = stack_step(c, rsp[0], count * size)
    return 0


cdef int pop_narrow(CpuState* c, u64* rsp, u64* words, u32 count, u32 size) noexcept nogil:
    """Pop values outside 64-bit mode, as `pop_values` does (count: at most MAX_VALUES)."""
    cdef u64 linear[MAX_VALUES]
    cdef u32 i
    if locate_values(c, &c.arch.seg[SEG_SS], rsp[0], count, size, 0, 0, linear):
        return EMU_FAULT
    for i in range(count):
        if load(c, linear[i], size, &words[i]):
            return EMU_FAULT
    rsp[0] = stack_step(c, rsp[0], count * size)
    return 0


cdef int pop_value(CpuState* c, u64* rsp, u32 size, u64* value) noexcept nogil:
    return pop_values(c, rsp, value, 1, size)


cdef int write_down(CpuState* c, u64 linear, const void* image, u32 count, u32 size,
                    u32 access) noexcept nogil:
    """Write `count` pushed values, all or none.

    Pushes go downwards, so a page fault reports the highest value on the faulting page.
    """
    cdef const u8* values = <const u8*>image
    cdef u32 i = count
    cdef int result
    cdef u64 at = linear + (count - 1) * size
    if (linear & 0xFFF) + count * size <= 0x1000:
        result = mmu_write(c, linear, image, count * size, access | ACC_WRITE)
        if result == MEM_OK:
            return 0
        if result == MEM_FAULT:
            if c.exc_vector == VEC_PF:
                c.exc_cr2 = at
            return EMU_FAULT
    while i:
        i -= 1
        if check_write(c, linear + i * size, size, access):
            return EMU_FAULT
    if mmu_write(c, linear, image, count * size, access | ACC_WRITE) == MEM_OK:
        return 0
    i = count
    while i:
        i -= 1
        if write_bytes(c, linear + i * size, values + i * size, size, access):
            return EMU_FAULT
    return 0


cdef int push_values(CpuState* c, u64* rsp, const u64* words, u32 count, u32 size) noexcept nogil:
    """Push `count` (at most 8) values of `size` bytes; words[0] is at the lowest address."""
    cdef u8 image[64]
    cdef u64 top, linear
    cdef u32 i, j
    if not mode64(c):
        return push_on(c, &c.arch.seg[SEG_SS], rsp, words, count, size, user_access(c), 0)
    top = linear = rsp[0] - count * size
    for i in range(count):
        for j in range(size):
            image[i * size + j] = <u8>(words[i] >> (8 * j))
    if check_stack(c, linear, count * size) or check_aligned(c, linear, size):
        return EMU_FAULT
    if write_down(c, linear, image, count, size, user_access(c)):
        return EMU_FAULT
    watch(c, linear, count * size, True)
    rsp[0] = top
    return 0


cdef int push_on(CpuState* c, Segment* ss, u64* rsp, const u64* words, u32 count, u32 size,
                 u32 access, u32 error) noexcept nogil:
    """Push values on a stack outside 64-bit mode, in SS or not loaded yet: all or none.

    `count` is at most MAX_VALUES; `access`: ACC_USER or 0, by the privilege of that stack.
    """
    cdef u64 linear[MAX_VALUES]
    cdef u64 top = stack_moved(ss, rsp[0], -<i64>(count * size))
    cdef u32 i = count
    if locate_values(c, ss, top, count, size, ACC_WRITE, error, linear):
        return EMU_FAULT
    while i:
        i -= 1
        if access & ACC_USER and check_aligned(c, linear[i], size):
            return EMU_FAULT
        if check_write(c, linear[i], size, access):
            return EMU_FAULT
    i = count
    while i:
        i -= 1
        if write_bytes(c, linear[i], &words[i], size, access):
            return EMU_FAULT
        watch(c, linear[i], size, True)
    rsp[0] = top
    return 0


cdef int push_frame(CpuState* c, u64 top, const u64* words, u32 count, u32 access) noexcept nogil:
    """Write a 64-bit frame of `count` quadwords that ends below `top`; words[0] is lowest."""
    cdef u64 linear = top - 8 * count
    if check_stack(c, linear, 8 * count):
        return EMU_FAULT
    return write_down(c, linear, words, count, 8, access)
