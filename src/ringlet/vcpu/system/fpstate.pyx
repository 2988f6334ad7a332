"""Save areas of the x87, SSE and AVX state, and XCR0 (SDM 1 ch. 10.5 and 13).

The guest's state is live in the host's registers here.  It passes through an aligned buffer in
CpuState by the host's own XSAVE and FXSAVE, and to or from the guest's memory by checked accesses,
so that no host instruction touches a guest page or can fault: headers and MXCSR are validated
first.  Only components 0 to 2 exist; compacted and standard areas then have the same layout.

The last x87 instruction and data pointers are host addresses while guest code runs translated;
they are replaced (`ringlet.vcpu.system.x87`), never shown.  Code and data selectors are saved as
0, as CPUID.7.EBX[13] announces.
"""
from ringlet.core.state cimport (
    RAX, RCX, RDX, EMU_FAULT, EMU_FLOW, EMU_NEXT, KEY_MODE64, VEC_GP,
    VEC_MF, VEC_NM, VEC_UD, raise_err, raise_exc)
from ringlet.vcpu.system.control cimport update_key
from ringlet.vcpu.system.cpuid cimport CPUID_EAX, CPUID_ECX, CPUID_EDX, cpuid_bit
from ringlet.vcpu.system.host_fpu cimport *
from ringlet.vcpu.system.memory cimport (
    check_write, load, read_bytes, store, user_access, write_bytes)
from ringlet.vcpu.system.operand cimport opcode_of
from ringlet.vcpu.system.pending cimport leave_emulate
from ringlet.vcpu.system.registers cimport (
    CR0_EM, CR0_MP, CR0_NE, CR0_TS, CR4_OSXSAVE, XCR0_AVX, XCR0_SSE, XCR0_X87, advance)
from ringlet.vcpu.system.x87 cimport (
    FPU_DATA, FPU_INSTRUCTION, X87_LOADED, guest_opcode, guest_pointer, load_pointer)

cdef void clear(u8* area, u32 size) noexcept nogil:
    cdef u32 i
    for i in range(0, size, 8):
        (<u64*>(area + i))[0] = 0


cdef void complete_pointers(CpuState* c, u8* area) noexcept nogil:
    """Fills in the pointers that AMD's FXSAVE and XSAVE leave out while no exception is pending.

    The environment always has them, but of 32 bits: enough for the code cache and for X87_LOADED.
    """
    cdef u32 env[7]
    if (<u64*>(area + AREA_FIP))[0] or (<u16*>(area + AREA_FSW))[0] & FSW_ES:
        return
    fp_fnstenv(env)
    fp_fldenv(env)       # FNSTENV has masked all exceptions
    (<u16*>(area + AREA_FOP))[0] = <u16>(env[4] >> 16) & 0x7FF
    (<u64*>(area + AREA_FIP))[0] = env[3]
    if env[5] == X87_LOADED:
        (<u64*>(area + AREA_FDP))[0] = env[5]


cdef void to_guest(CpuState* c, u8* area, bint wide, bint x87) noexcept nogil:
    """Makes a legacy region of the host one of the guest's, in the 64-bit or the 32-bit format.

    `x87`: that component is not in its initial state, so there may be pointers.
    """
    cdef u64* fip = <u64*>(area + AREA_FIP)
    cdef u64* fdp = <u64*>(area + AREA_FDP)
    if x87:
        complete_pointers(c, area)
    (<u16*>(area + AREA_FOP))[0] = guest_opcode(c, fip[0], (<u16*>(area + AREA_FOP))[0])
    fip[0] = guest_pointer(c, fip[0], FPU_INSTRUCTION)
    fdp[0] = guest_pointer(c, fdp[0], FPU_DATA)
    if not wide:
        fip[0] &= <u64>0xFFFFFFFF
        fdp[0] &= <u64>0xFFFFFFFF
    (<u32*>(area + AREA_MXCSR_MASK))[0] = MXCSR_KNOWN


cdef void to_host(CpuState* c, u8* area, bint wide) noexcept nogil:
    """Takes the guest's pointers out of a legacy region, before the host loads it.

    The 32-bit format has selectors where the 64-bit format has the upper halves of pointers.
    """
    cdef u64* fip = <u64*>(area + AREA_FIP)
    cdef u64* fdp = <u64*>(area + AREA_FDP)
    if not wide:
        fip[0] &= <u64>0xFFFFFFFF
        fdp[0] &= <u64>0xFFFFFFFF
    fip[0] = load_pointer(c, fip[0], FPU_INSTRUCTION)
    fdp[0] = load_pointer(c, fdp[0], FPU_DATA)


cdef u32 xmm_end(CpuState* c) noexcept nogil:
    """Outside 64-bit mode XMM8-XMM15 are left alone."""
    return AREA_RESERVED if c.key & KEY_MODE64 else AREA_XMM8


cdef int put(CpuState* c, u8* area, u32 start, u32 end) noexcept nogil:
    return write_bytes(c, c.ea + start, area + start, end - start, user_access(c))


cdef int get(CpuState* c, u8* area, u32 start, u32 end) noexcept nogil:
    return read_bytes(c, c.ea + start, area + start, end - start, user_access(c))


cdef int check_fx(CpuState* c) noexcept nogil:
    """#UD, #NM and alignment of FXSAVE and FXRSTOR (SDM 2A)."""
    if c.arch.cr0 & CR0_EM:
        return raise_exc(c, VEC_UD)
    if c.arch.cr0 & CR0_TS:
        return raise_exc(c, VEC_NM)
    if c.ea & 15:
        return raise_err(c, VEC_GP, 0)
    return 0


cdef int op_fxsave(CpuState* c, OpInfo* op) noexcept nogil:
    cdef u8* area = save_area(c)
    if check_fx(c) or check_write(c, c.ea, FXSAVE_SIZE, user_access(c)):
        return EMU_FAULT
    fp_fxsave(area)
    to_guest(c, area, op.size == 8, True)
    return put(c, area, 0, xmm_end(c))


cdef int op_fxrstor(CpuState* c, OpInfo* op) noexcept nogil:
    cdef u8* area = save_area(c)
    if check_fx(c):
        return EMU_FAULT
    if not c.key & KEY_MODE64:
        fp_fxsave(area)
    if get(c, area, 0, xmm_end(c)):
        return EMU_FAULT
    if (<u32*>(area + AREA_MXCSR))[0] & ~<u32>MXCSR_KNOWN:
        return raise_err(c, VEC_GP, 0)
    to_host(c, area, op.size == 8)
    fp_fxrstor(area)
    return EMU_NEXT


cdef int check_xsave(CpuState* c, u32 feature) noexcept nogil:
    """#UD, #NM and alignment of the XSAVE family; `feature`: bit of CPUID.(0Dh,1):EAX, or 32."""
    if not c.arch.cr4 & CR4_OSXSAVE or (
            feature < 32 and not cpuid_bit(c, 0xD, 1, CPUID_EAX, feature)):
        return raise_exc(c, VEC_UD)
    if c.arch.cr0 & CR0_TS:
        return raise_exc(c, VEC_NM)
    if c.ea & 63:
        return raise_err(c, VEC_GP, 0)
    return 0


cdef u32 requested(CpuState* c) noexcept nogil:
    """The requested-feature bitmap: EDX:EAX and XCR0 (IA32_XSS is always 0)."""
    return <u32>(c.arch.gpr[RAX] & c.arch.xcr0)


cdef u64 in_use(CpuState* c, u8* area) noexcept nogil:
    """Saves the whole live state to `area`: the components that are not in their initial state."""
    clear(area + AREA_HEADER, 64)
    fp_xsave(area, <u32>c.arch.xcr0)
    return (<u64*>(area + AREA_HEADER))[0] & c.arch.xcr0


cdef int put_components(CpuState* c, u8* area, u32 mask, bint mxcsr) noexcept nogil:
    """Writes the components of `mask`, and MXCSR with its mask if asked."""
    if mask & XCR0_X87:
        if put(c, area, 0, AREA_MXCSR) or put(c, area, AREA_ST, AREA_XMM):
            return EMU_FAULT
    if mxcsr and put(c, area, AREA_MXCSR, AREA_ST):
        return EMU_FAULT
    if mask & XCR0_SSE and put(c, area, AREA_XMM, xmm_end(c)):
        return EMU_FAULT
    if mask & XCR0_AVX:
        return put(c, area, AREA_AVX, AREA_AVX + (256 if c.key & KEY_MODE64 else 128))
    return 0


cdef u32 area_end(u32 mask) noexcept nogil:
    return AREA_END if mask & XCR0_AVX else AREA_AVX


cdef int save_standard(CpuState* c, OpInfo* op, bint optimized) noexcept nogil:
    """XSAVE, and XSAVEOPT, which skips components in their initial state (SDM 1 13.7, 13.9)."""
    cdef u8* area = save_area(c)
    cdef u32 mask = requested(c)
    cdef u64 used
    cdef u64 bitmap = 0
    if check_write(c, c.ea, area_end(mask), user_access(c)):
        return EMU_FAULT
    if load(c, c.ea + AREA_HEADER, 8, &bitmap):
        return EMU_FAULT
    used = in_use(c, area)
    to_guest(c, area, op.size == 8, used & mask & XCR0_X87 != 0)
    if put_components(c, area, mask & <u32>used if optimized else mask,
                      mask & (XCR0_SSE | XCR0_AVX) != 0):
        return EMU_FAULT
    return store(c, c.ea + AREA_HEADER, 8, (bitmap & ~<u64>mask) | (used & mask))


cdef int save_compacted(CpuState* c, OpInfo* op) noexcept nogil:
    """XSAVEC and XSAVES: MXCSR belongs to SSE, the header is rewritten (SDM 1 13.10, 13.11)."""
    cdef u8* area = save_area(c)
    cdef u32 mask = requested(c)
    cdef u64 used
    if check_write(c, c.ea, area_end(mask), user_access(c)):
        return EMU_FAULT
    used = in_use(c, area)
    if (<u32*>(area + AREA_MXCSR))[0] != MXCSR_RESET:
        used |= XCR0_SSE
    used &= mask
    to_guest(c, area, op.size == 8, used & XCR0_X87 != 0)
    if put_components(c, area, <u32>used, used & XCR0_SSE != 0):
        return EMU_FAULT
    if store(c, c.ea + AREA_HEADER, 8, used):
        return EMU_FAULT
    return store(c, c.ea + AREA_HEADER + 8, 8, mask | <u64>1 << 63)


cdef int op_xsave(CpuState* c, OpInfo* op) noexcept nogil:
    if check_xsave(c, 32):
        return EMU_FAULT
    return save_standard(c, op, False)


cdef int op_xsaveopt(CpuState* c, OpInfo* op) noexcept nogil:
    if check_xsave(c, 0):
        return EMU_FAULT
    return save_standard(c, op, True)


cdef int op_xsavec(CpuState* c, OpInfo* op) noexcept nogil:
    if check_xsave(c, 1):
        return EMU_FAULT
    return save_compacted(c, op)


cdef int check_supervisor(CpuState* c) noexcept nogil:
    """XSAVES and XRSTORS: privileged, after #UD and #NM and before alignment (SDM 2C)."""
    if not c.arch.cr4 & CR4_OSXSAVE or not cpuid_bit(c, 0xD, 1, CPUID_EAX, 3):
        return raise_exc(c, VEC_UD)
    if c.arch.cpl:
        return raise_err(c, VEC_GP, 0)
    return check_xsave(c, 3)


cdef int op_xsaves(CpuState* c, OpInfo* op) noexcept nogil:
    if check_supervisor(c):
        return EMU_FAULT
    return save_compacted(c, op)


cdef int check_header(CpuState* c, u64* header, bint compacted_only) noexcept nogil:
    """The #GP conditions of a header of 8 quadwords (SDM 1 13.8, 13.12)."""
    cdef u64 bitmap = header[0]
    cdef u64 layout = header[1]
    cdef u32 i
    cdef bint bad
    if layout >> 63:
        bad = ((layout & ~(<u64>1 << 63) & ~c.arch.xcr0) != 0
               or (bitmap & ~(layout & c.arch.xcr0)) != 0)
        for i in range(2, 8):
            bad = bad or header[i] != 0
    else:
        bad = compacted_only or (bitmap & ~c.arch.xcr0) != 0 or layout != 0 or header[2] != 0
    return raise_err(c, VEC_GP, 0) if bad else 0


cdef int restore(CpuState* c, OpInfo* op, bint compacted_only) noexcept nogil:
    cdef u8* area = save_area(c)
    cdef u64* header = <u64*>(area + AREA_HEADER)
    cdef u32* mxcsr = <u32*>(area + AREA_MXCSR)
    cdef u32 mask = requested(c)
    cdef u32 loaded
    cdef bint compacted
    fp_xsave(area, <u32>c.arch.xcr0)
    if get(c, area, AREA_HEADER, AREA_AVX):
        return EMU_FAULT
    if check_header(c, header, compacted_only):
        return EMU_FAULT
    compacted = header[1] >> 63 != 0
    loaded = mask & <u32>header[0]
    if loaded & XCR0_X87:
        if get(c, area, 0, AREA_MXCSR) or get(c, area, AREA_ST, AREA_XMM):
            return EMU_FAULT
    # MXCSR: the standard form loads it with SSE or AVX requested, whatever XSTATE_BV says; in the
    # compacted form it is a part of SSE and has its initial value with it.
    mxcsr[0] = fp_mxcsr()
    if compacted:
        if loaded & XCR0_SSE:
            if get(c, area, AREA_MXCSR, AREA_MXCSR_MASK):
                return EMU_FAULT
        elif mask & XCR0_SSE:
            mxcsr[0] = MXCSR_RESET
    elif mask & (XCR0_SSE | XCR0_AVX):
        if get(c, area, AREA_MXCSR, AREA_MXCSR_MASK):
            return EMU_FAULT
    if mxcsr[0] & ~<u32>MXCSR_KNOWN:
        return raise_err(c, VEC_GP, 0)
    if loaded & XCR0_SSE and get(c, area, AREA_XMM, xmm_end(c)):
        return EMU_FAULT
    if loaded & XCR0_AVX:
        if get(c, area, AREA_AVX, AREA_AVX + (256 if c.key & KEY_MODE64 else 128)):
            return EMU_FAULT
    if loaded & XCR0_X87:
        to_host(c, area, op.size == 8)
    clear(area + AREA_HEADER, 64)
    header[0] = loaded
    fp_xrstor(area, mask)
    return EMU_NEXT


cdef int op_xrstor(CpuState* c, OpInfo* op) noexcept nogil:
    if check_xsave(c, 32):
        return EMU_FAULT
    return restore(c, op, False)


cdef int op_xrstors(CpuState* c, OpInfo* op) noexcept nogil:
    if check_supervisor(c):
        return EMU_FAULT
    return restore(c, op, True)


cdef int op_xgetbv(CpuState* c, OpInfo* op) noexcept nogil:
    """XGETBV: 0 is XCR0, 1 is XCR0 and the components in use, if CPUID offers it."""
    cdef u32 index = <u32>c.arch.gpr[RCX]
    cdef u64 value = c.arch.xcr0
    if not c.arch.cr4 & CR4_OSXSAVE:
        return raise_exc(c, VEC_UD)
    if index == 1 and cpuid_bit(c, 0xD, 1, CPUID_EAX, 2):
        value = in_use(c, save_area(c))
    elif index:
        return raise_err(c, VEC_GP, 0)
    c.arch.gpr[RAX] = value & <u64>0xFFFFFFFF
    c.arch.gpr[RDX] = value >> 32
    return EMU_NEXT


cdef u64 supported(CpuState* c) noexcept nogil:
    if cpuid_bit(c, 1, 0, CPUID_ECX, 28):
        return XCR0_X87 | XCR0_SSE | XCR0_AVX
    return XCR0_X87 | XCR0_SSE


cdef int op_xsetbv(CpuState* c, OpInfo* op) noexcept nogil:
    cdef u64 value = (c.arch.gpr[RDX] << 32) | (c.arch.gpr[RAX] & <u64>0xFFFFFFFF)
    if not c.arch.cr4 & CR4_OSXSAVE:
        return raise_exc(c, VEC_UD)
    if c.arch.cpl or <u32>c.arch.gpr[RCX] or value & ~supported(c) or not value & XCR0_X87 or (
            value & XCR0_AVX and not value & XCR0_SSE):
        return raise_err(c, VEC_GP, 0)
    c.arch.xcr0 = value
    update_key(c)
    advance(c, op)
    return EMU_FLOW


cdef int op_nm(CpuState* c, OpInfo* op) noexcept nogil:
    """An x87, MMX, SSE or AVX instruction met with CR0.TS or CR0.EM (SDM 3A tables 2-2, 2-3).

    FWAIT with CR0.MP or CR0.TS clear only looks for a pending x87 exception.  VEX-encoded
    instructions do not look at CR0.EM; with it alone they go to the general emulator.
    """
    cdef u32 opcode = opcode_of(op)
    if opcode == 0x9B:
        if c.arch.cr0 & CR0_MP and c.arch.cr0 & CR0_TS:
            return raise_exc(c, VEC_NM)
        if fp_status() & FSW_ES and c.arch.cr0 & CR0_NE:
            return raise_exc(c, VEC_MF)
        return EMU_NEXT
    if 0xD8 <= opcode <= 0xDF:
        return raise_exc(c, VEC_NM)
    if c.arch.cr0 & CR0_EM and opcode >= 0x100:
        return raise_exc(c, VEC_UD)
    if c.arch.cr0 & CR0_TS:
        return raise_exc(c, VEC_NM)
    return leave_emulate(c, op)
