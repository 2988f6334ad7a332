"""The x87 environment in memory: FNSTENV, FNSAVE, FLDENV and FRSTOR (SDM 1 8.1.10, 8.1.11).

The layouts, of 14 and 28 bytes, are those of protected and 64-bit mode, or of real and virtual-8086
mode, whose pointers are linear addresses in two parts (SDM 1 figures 8-9 to 8-12).  As with the
other save areas, no host instruction touches a guest page: the image passes through an aligned
buffer.
"""
from ringlet.core.state cimport EMU_FAULT, SEG_CS, VEC_MF, VEC_NM, raise_exc
from ringlet.vcpu.debug.watch cimport check_aligned
from ringlet.vcpu.system.host_fpu cimport *
from ringlet.vcpu.system.memory cimport check_write, read_bytes, user_access, write_bytes
from ringlet.vcpu.system.registers cimport CR0_EM, CR0_TS, paragraphs
from ringlet.vcpu.system.x87 cimport (
    FPU_DATA, FPU_INSTRUCTION, X87_LOADED, guest_opcode, guest_pointer, load_pointer)


cdef void build_environment(CpuState* c, u8* area, u32* env) noexcept nogil:
    """Rewrites the pointers of the 7 doublewords of an x87 environment; `area`: an FXSAVE image."""
    cdef u64 host = (<u64*>(area + AREA_FIP))[0]
    cdef u64 data = (<u64*>(area + AREA_FDP))[0]
    # AMD's FXSAVE leaves pointers out; the environment has 32 bits of them.
    host = host if host else env[3]
    data = data if data else env[5]
    env[4] = <u32>guest_opcode(c, host, <u16>(env[4] >> 16) & 0x7FF) << 16
    env[3] = <u32>guest_pointer(c, host, FPU_INSTRUCTION)
    env[5] = <u32>guest_pointer(c, data, FPU_DATA)
    env[6] = <u64>0xFFFF0000
    if paragraphs(c):
        if env[3] and host != X87_LOADED:
            env[3] += <u32>c.arch.seg[SEG_CS].base
        split_pointers(env)


cdef void split_pointers(u32* env) noexcept nogil:
    """Give an environment the layout of real and virtual-8086 mode."""
    env[4] = env[3] >> 16 << 12 | (env[4] >> 16 & 0x7FF)
    env[6] = env[5] >> 16 << 12
    env[3] |= <u32>0xFFFF0000
    env[5] |= <u32>0xFFFF0000


cdef void join_pointers(u8* area, bint narrow) noexcept nogil:
    """Give an environment of real or virtual-8086 mode the layout of protected mode.

    In its 14 bytes there is room for 16 bits of each pointer, and none for the opcode.
    """
    cdef u32* env = <u32*>area
    cdef u16* words = <u16*>area
    if narrow:
        words[4] = 0
        words[6] = 0
        return
    env[3] = (env[3] & 0xFFFF) | (env[4] >> 12 & 0xFFFF) << 16
    env[5] = (env[5] & 0xFFFF) | (env[6] >> 12 & 0xFFFF) << 16
    env[4] = (env[4] & 0x7FF) << 16
    env[6] = 0


cdef int store_environment(CpuState* c, OpInfo* op, u32* env, u32 registers) noexcept nogil:
    """Writes 28 bytes, or with a 16-bit operand size 14, and `registers` bytes after them."""
    cdef u16 narrow[7]
    cdef u32 i
    if op.size != 2:
        return write_bytes(c, c.ea, env, 28 + registers, user_access(c))
    for i in range(7):
        narrow[i] = <u16>env[i]
    if write_bytes(c, c.ea, narrow, 14, user_access(c)):
        return EMU_FAULT
    if registers:
        return write_bytes(c, c.ea + 14, &env[7], registers, user_access(c))
    return 0


cdef int save_x87(CpuState* c, OpInfo* op, u32 registers) noexcept nogil:
    cdef u8* area = save_area(c)
    cdef u32* env = <u32*>(area + FXSAVE_SIZE)
    if c.arch.cr0 & (CR0_EM | CR0_TS):
        return raise_exc(c, VEC_NM)
    if check_aligned(c, c.ea, 2 if op.size == 2 else 4) or check_write(
            c, c.ea, (14 if op.size == 2 else 28) + registers, user_access(c)):
        return EMU_FAULT
    fp_fxsave(area)
    if registers:
        fp_fnsave(env)
    else:
        fp_fnstenv(env)
    build_environment(c, area, env)
    if store_environment(c, op, env, registers):
        # To be begun anew with the state that it has changed.
        fp_fxrstor(area)
        return EMU_FAULT
    return 0


cdef int op_fnstenv(CpuState* c, OpInfo* op) noexcept nogil:
    """FNSTENV: stores the environment and masks all x87 exceptions."""
    return save_x87(c, op, 0)


cdef int op_fnsave(CpuState* c, OpInfo* op) noexcept nogil:
    """FNSAVE: stores environment and registers and initializes the x87 unit."""
    return save_x87(c, op, 80)


cdef int load_x87(CpuState* c, OpInfo* op, u32 registers) noexcept nogil:
    """FLDENV, and FRSTOR with `registers` = 80 bytes of registers after the environment."""
    cdef u8* area = save_area(c)
    cdef bint narrow = op.size == 2
    cdef u16* fip16 = <u16*>(area + 6)
    cdef u16* fdp16 = <u16*>(area + 10)
    cdef u32* fip32 = <u32*>(area + 12)
    cdef u32* fdp32 = <u32*>(area + 20)
    if c.arch.cr0 & (CR0_EM | CR0_TS):
        return raise_exc(c, VEC_NM)
    if fp_status() & FSW_ES:
        return raise_exc(c, VEC_MF)
    if check_aligned(c, c.ea, 2 if narrow else 4) or read_bytes(
            c, c.ea, area, (14 if narrow else 28) + registers, user_access(c)):
        return EMU_FAULT
    if paragraphs(c):
        join_pointers(area, narrow)
    if narrow:
        fip16[0] = <u16>load_pointer(c, fip16[0], FPU_INSTRUCTION)
        fdp16[0] = <u16>load_pointer(c, fdp16[0], FPU_DATA)
    else:
        fip32[0] = <u32>load_pointer(c, fip32[0], FPU_INSTRUCTION)
        fdp32[0] = <u32>load_pointer(c, fdp32[0], FPU_DATA)
    if registers and narrow:
        fp_frstor_16(area)
    elif registers:
        fp_frstor(area)
    elif narrow:
        fp_fldenv_16(area)
    else:
        fp_fldenv(area)
    return 0


cdef int op_fldenv(CpuState* c, OpInfo* op) noexcept nogil:
    """FLDENV: loads the environment; an exception it leaves unmasked waits for the next x87."""
    return load_x87(c, op, 0)


cdef int op_frstor(CpuState* c, OpInfo* op) noexcept nogil:
    """FRSTOR: loads environment and registers, as FNSAVE stores them."""
    return load_x87(c, op, 80)
