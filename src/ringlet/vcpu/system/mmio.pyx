"""Accesses to devices by compiled code: by sensitive instructions and the delivery of events.

Only the machine can answer for a device, so the instruction leaves at each access.  It then begins
again from its start: an access that was answered is not repeated, and a read returns the value of
its answer.  An instruction must be restartable for this, as it must be for a page fault at the same
access: before the access it changes nothing that it reads.
"""
from ringlet.core.state cimport (
    ACC_WRITE, DEVICE_MAX, EMU_FAULT, EXIT_MMIO_READ, EXIT_MMIO_WRITE, MEM_FAULT, MEM_OK)
from ringlet.mmu.mmu cimport mmu_translate, phys_read, phys_write


cdef int ask(CpuState* c, u64 phys, u32 size, bint write, u64* value) noexcept nogil:
    """Make one access of `size` naturally aligned bytes; 0: it was answered; EMU_FAULT: wait."""
    cdef u32 n = c.device_at
    if c.device_waits:
        return EMU_FAULT
    if n < c.device_done or n == DEVICE_MAX:
        if not write:
            value[0] = c.device_data[n] if n < DEVICE_MAX else ~<u64>0
        c.device_at += n < DEVICE_MAX
        return 0
    c.device_waits = 1
    c.device_at = 0
    c.device_data[n] = 0
    c.device_done = n + 1
    c.mmio_phys = phys
    c.io_size = size
    c.io_data = value[0] if write else 0
    c.exit_kind = EXIT_MMIO_WRITE if write else EXIT_MMIO_READ
    c.n_mmio_writes += write
    c.n_mmio_reads += not write
    return EMU_FAULT


cdef void device_answer(CpuState* c, u64 value) noexcept nogil:
    if c.device_waits:
        c.device_data[c.device_done - 1] = value
    c.device_waits = 0


cdef void device_forget(CpuState* c) noexcept nogil:
    c.device_done = 0
    c.device_at = 0


cdef int units(CpuState* c, u64 phys, u8* data, u32 size, u32 unit, bint write) noexcept nogil:
    """Access `size` bytes of a device's page in naturally aligned units."""
    cdef u32 at = 0, now, i
    cdef u64 value
    while at < size:
        now = unit
        while (phys + at) & (now - 1) or now > size - at:
            now >>= 1
        value = 0
        if write:
            for i in range(now):
                value |= <u64>data[at + i] << (8 * i)
        if ask(c, phys + at, now, write, &value):
            return EMU_FAULT
        if not write:
            for i in range(now):
                data[at + i] = <u8>(value >> (8 * i))
        at += now
    return 0


cdef int copy(CpuState* c, u64 linear, u8* data, u32 size, u32 unit, u32 access) noexcept nogil:
    cdef bint write = access & ACC_WRITE != 0
    cdef u64 phys = 0
    cdef u32 part, at
    cdef int result
    # Check all pages first: an instruction that faults must not access a device.
    at = 0
    while at < size:
        if mmu_translate(c, linear + at, access, &phys) == MEM_FAULT:
            return EMU_FAULT
        at += 0x1000 - <u32>((linear + at) & 0xFFF)
    at = 0
    while at < size:
        part = 0x1000 - <u32>((linear + at) & 0xFFF)
        if part > size - at:
            part = size - at
        result = mmu_translate(c, linear + at, access, &phys)
        if result == MEM_FAULT:
            return EMU_FAULT
        if result == MEM_OK and write:
            result = phys_write(c, phys, data + at, part)
        elif result == MEM_OK:
            result = phys_read(c, phys, data + at, part)
        if result != MEM_OK and units(c, phys, data + at, part, unit, write):
            return EMU_FAULT
        at += part
    return 0


cdef int device_read(CpuState* c, u64 linear, u8* data, u32 size, u32 unit,
                     u32 access) noexcept nogil:
    return copy(c, linear, data, size, unit, access & ~<u32>ACC_WRITE)


cdef int device_write(CpuState* c, u64 linear, const u8* data, u32 size, u32 unit,
                      u32 access) noexcept nogil:
    return copy(c, linear, <u8*>data, size, unit, access | ACC_WRITE)
