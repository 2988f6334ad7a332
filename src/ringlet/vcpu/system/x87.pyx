"""The last x87 instruction as the guest knows it: from host addresses and translated code."""


cdef u32 x87_opcode(const u8* code) noexcept nogil:
    """FOP of the x87 instruction at `code` (SDM 1 8.1.9); X87_NONE if it is something else."""
    cdef int i = 0
    while i < 13 and (code[i] == 0x66 or code[i] == 0x67 or 0x40 <= code[i] <= 0x4F
                      or code[i] & 0xFE == 0x64 or code[i] & 0xFE == 0xF2
                      or (code[i] & 0xE7) == 0x26):
        i += 1
    if code[i] & 0xF8 != 0xD8:
        return X87_NONE
    return <u32>(code[i] & 7) << 8 | code[i + 1]


cdef u64 load_pointer(CpuState* c, u64 guest, int data) noexcept nogil:
    """Keeps a pointer that the guest loads; returns what the host is to load in its place."""
    c.arch.fpu_restored[data] = guest
    return X87_LOADED if guest else 0


cdef u64 guest_pointer(CpuState* c, u64 host, int data) noexcept nogil:
    """The guest's instruction pointer (`data` 0) or data pointer (1) for the host's `host`."""
    if host == 0:
        return 0
    if host == X87_LOADED:
        return c.arch.fpu_restored[data]
    if c.fpu_pointer == NULL:
        return 0
    return (<fpu_pointer_fn>c.fpu_pointer)(c, host, data)


cdef u16 guest_opcode(CpuState* c, u64 host, u16 fop) noexcept nogil:
    """FOP of the guest for what the host has with the instruction pointer `host`.

    A processor that keeps FOP of unmasked exceptions alone (SDM 1 8.1.9.1) has it of an
    instruction before that one, or not at all: then it stays.
    """
    cdef u64 found
    if not fop or host <= 0xFFFF or c.fpu_pointer == NULL:
        return fop
    found = (<fpu_pointer_fn>c.fpu_pointer)(c, host, FPU_OPCODE)
    if found >> 32 != fop or <u32>found == X87_NONE:
        return fop
    return <u16>found
