"""MOV to and from memory that has met a device (`ringlet.translate.device`).

The operand is translated by the guest's page tables at each access, with the guest's rights, so a
site may meet a device, RAM, a page without a mapping or a code page, as any instruction may.  A
naturally aligned access to a device is one access.  Any other one goes the way of sensitive
instructions (`ringlet.vcpu.system.memory`).
"""
from ringlet.cache.codecache cimport Cache
from ringlet.cache.invalidation cimport cache_drop_linear
from ringlet.core.state cimport (
    ACC_WRITE, EMU_EXIT, EMU_FAULT, EMU_NEXT, EXIT_MMIO_READ, EXIT_MMIO_WRITE, MEM_FAULT, MEM_MMIO,
    MEM_OK, OPF_HIGH, OPF_SIGN, VEC_GP, VEC_SS, code_linear, is_canonical, raise_err, u8, u32, u64,
    i64)
from ringlet.mmu.mmu cimport mmu_translate
from ringlet.translate.device cimport NO_REGISTER
from ringlet.vcpu.apic.local cimport apic_holds, apic_read, apic_write
from ringlet.vcpu.debug.watch cimport watch
from ringlet.vcpu.system.doorbells cimport DOORBELL_MEMORY, doorbell_rings
from ringlet.vcpu.system.memory cimport load, store, user_access
from ringlet.vcpu.system.operand cimport on_stack
from ringlet.vcpu.system.pending cimport PENDING_DEVICE, PENDING_NONE, leave
from ringlet.vcpu.system.registers cimport advance, write_gpr
from ringlet.vcpu.system.sites cimport site_device, site_ram


cdef int reach(CpuState* c, OpInfo* op, u32 access, u64* phys) noexcept nogil:
    """Find what the operand is: MEM_MMIO for one access to a device, MEM_FAULT, or MEM_OK."""
    cdef int result
    cdef u64 linear = code_linear(c, op.rip)
    c.n_device_ops += 1
    if not is_canonical(c.ea) or not is_canonical(c.ea + op.size - 1):
        raise_err(c, VEC_SS if on_stack(op) else VEC_GP, 0)
        return MEM_FAULT
    if c.ea & (op.size - 1):
        return MEM_OK
    result = mmu_translate(c, c.ea, access | user_access(c), phys)
    if result == MEM_MMIO:
        site_device(c, linear)
    elif result == MEM_OK and site_ram(c, linear):
        # The instruction is done here once more.
        cache_drop_linear(c, <Cache*>c.cache, linear, 1)
    return result


cdef void put(CpuState* c, OpInfo* op, u64 value) noexcept nogil:
    """Write the register of a read; op.imm is its width."""
    cdef u32 unused = 64 - 8 * op.size
    value <<= unused
    value = <u64>(<i64>value >> unused) if op.flags & OPF_SIGN else value >> unused
    if op.flags & OPF_HIGH:
        c.arch.gpr[op.reg] = (c.arch.gpr[op.reg] & ~<u64>0xFF00) | value << 8
    else:
        write_gpr(c, op.reg, value, <u32>op.imm)


cdef int op_device_read(CpuState* c, OpInfo* op) noexcept nogil:
    cdef u64 phys = 0, value = 0
    cdef int result = reach(c, op, 0, &phys)
    if result == MEM_FAULT:
        return EMU_FAULT
    if result == MEM_OK:
        if load(c, c.ea, op.size, &value):
            return EMU_FAULT
        put(c, op, value)
        return EMU_NEXT
    c.n_mmio_reads += 1
    if apic_holds(c, phys):
        watch(c, c.ea, op.size, False)
        put(c, op, apic_read(c, phys & 0xFFF))
        return EMU_NEXT
    c.mmio_phys = phys
    c.io_size = op.size
    c.io_data = 0
    return leave(c, op, EXIT_MMIO_READ, PENDING_DEVICE)


cdef int finish_device_read(CpuState* c, OpInfo* op) noexcept nogil:
    watch(c, c.ea, op.size, False)
    put(c, op, c.io_data)
    advance(c, op)
    return EMU_NEXT


cdef u64 stored(CpuState* c, OpInfo* op) noexcept nogil:
    """Return the value that a MOV writes."""
    cdef u64 value = op.imm if op.reg == NO_REGISTER else c.arch.gpr[op.reg]
    if op.flags & OPF_HIGH:
        value >>= 8
    return value & ~<u64>0 >> (64 - 8 * op.size)


cdef int op_device_write(CpuState* c, OpInfo* op) noexcept nogil:
    cdef u64 phys = 0, value = stored(c, op)
    cdef int result = reach(c, op, ACC_WRITE, &phys)
    if result == MEM_FAULT:
        return EMU_FAULT
    if result == MEM_OK:
        return EMU_FAULT if store(c, c.ea, op.size, value) else EMU_NEXT
    c.n_mmio_writes += 1
    watch(c, c.ea, op.size, True)
    if apic_holds(c, phys):
        if apic_write(c, phys & 0xFFF, <u32>value) != EMU_EXIT:
            return EMU_NEXT
        # The write is done, and the machine is told of the end of an interrupt.
        advance(c, op)
        return EMU_EXIT
    if doorbell_rings(c, DOORBELL_MEMORY, phys, op.size, value):
        return EMU_NEXT
    c.mmio_phys = phys
    c.io_size = op.size
    c.io_data = value
    advance(c, op)
    return leave(c, op, EXIT_MMIO_WRITE, PENDING_NONE)
