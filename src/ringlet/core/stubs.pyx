"""Entering and leaving translated code.

The entry stub is called as a C function.  It saves the registers that the ABI preserves, loads the
guest's registers and flags, and jumps to `CpuState.entry`.  Every exit stores the guest's registers
and returns from that call.  The stubs use no vector register, as the guest's are live there
(docs/adr/0001).
"""
from ringlet.core.state cimport (CpuState, u8, u32, u64, LEAVE_LINK, LEAVE_INDIRECT, LEAVE_OP,
                                 LEAVE_SAFEPOINT, LEAVE_STALE)
from ringlet.core.template cimport (STUB_ENTER, STUB_LINK, STUB_INDIRECT, STUB_OP, STUB_LEAVE,
                                    STUB_STALE)

cdef CpuState* _null = NULL
cdef u32 RIP = <u32><size_t>&_null.arch.rip
cdef u32 HOST_RSP = <u32><size_t>&_null.host_rsp
cdef u32 HOST_FLAGS = <u32><size_t>&_null.host_flags
cdef u32 EXIT_CODE = <u32><size_t>&_null.exit_code
cdef u32 ATTENTION = <u32><size_t>&_null.attention
cdef u32 FLAT_HOST = <u32><size_t>&_null.flat_host
cdef u32 ENTRY = <u32><size_t>&_null.entry
cdef u32 FLAGS_IN = <u32><size_t>&_null.scratch[2]
cdef u32 RSP_IN_OUT = <u32><size_t>&_null.scratch[3]

cdef struct Writer:
    u8* out
    u32 n
    u64 block


cdef inline void b1(Writer* w, u32 v) noexcept nogil:
    w.out[w.n] = <u8>v
    w.n += 1


cdef inline void b4(Writer* w, u32 v) noexcept nogil:
    (<u32*>(w.out + w.n))[0] = v
    w.n += 4


cdef inline void absolute(Writer* w, u32 rex, u32 opcode, u32 reg, u32 offset) noexcept nogil:
    """Emit `opcode reg, [state + offset]`."""
    rex |= (reg >> 3) << 2
    if rex:
        b1(w, 0x40 | rex)
    b1(w, opcode)
    b1(w, ((reg & 7) << 3) | 4)
    b1(w, 0x25)
    b4(w, <u32>(w.block + offset))


cdef inline bint in_host_register(u32 reg) noexcept nogil:
    return reg != 4 and not 8 <= reg <= 11


cdef void pop_saved(Writer* w) noexcept nogil:
    b1(w, 0x41); b1(w, 0x5F)                      # pop r15, r14, r13, r12
    b1(w, 0x41); b1(w, 0x5E)
    b1(w, 0x41); b1(w, 0x5D)
    b1(w, 0x41); b1(w, 0x5C)
    b1(w, 0x5D)                                   # pop rbp
    b1(w, 0x5B)                                   # pop rbx
    b1(w, 0xC3)


cdef void test_align(Writer* w) noexcept nogil:
    """Emit a test that sets ZF if the guest runs without alignment checks."""
    b1(w, 0xF6); b1(w, 0x04); b1(w, 0x25)         # test byte [flags_in + 2], 8
    b4(w, <u32>(w.block + FLAGS_IN + 2))
    b1(w, 8)


cdef void emit_leave_code(Writer* w, u32 code) noexcept nogil:
    b1(w, 0xC7); b1(w, 0x04); b1(w, 0x25)         # mov dword [exit_code], code
    b4(w, <u32>(w.block + EXIT_CODE))
    b4(w, code)


cdef void emit_enter(Writer* w) noexcept nogil:
    """Emit the entry stub.

    Its first instruction checks for a stop request.  After a later request, the signal handler cuts
    the exits of the fragment at `entry`.
    """
    cdef u32 r
    b1(w, 0x83); b1(w, 0x3C); b1(w, 0x25)         # cmp dword [attention], 0
    b4(w, <u32>(w.block + ATTENTION))
    b1(w, 0)
    b1(w, 0x74); b1(w, 12)                        # je over
    emit_leave_code(w, LEAVE_SAFEPOINT)
    b1(w, 0xC3)
    b1(w, 0x53)                                   # push rbx, rbp, r12-r15
    b1(w, 0x55)
    b1(w, 0x41); b1(w, 0x54)
    b1(w, 0x41); b1(w, 0x55)
    b1(w, 0x41); b1(w, 0x56)
    b1(w, 0x41); b1(w, 0x57)
    absolute(w, 8, 0x89, 4, HOST_RSP)             # mov [host_rsp], rsp
    b1(w, 0xF6); b1(w, 0x04); b1(w, 0x25)         # test byte [flags_in + 2], DF
    b4(w, <u32>(w.block + FLAGS_IN + 2))
    b1(w, 4)
    b1(w, 0x74); b1(w, 1)                         # jz over
    b1(w, 0xFD)                                   # std
    test_align(w)
    b1(w, 0x74); b1(w, 7)                         # jz over
    b1(w, 0x9C)                                   # pushfq
    b1(w, 0x80); b1(w, 0x4C); b1(w, 0x24); b1(w, 2); b1(w, 4)   # or byte [rsp + 2], AC
    b1(w, 0x9D)                                   # popfq
    absolute(w, 0, 0x8B, 0, FLAGS_IN)             # mov eax, [OF | low flags << 8 | DF << 16]
    b1(w, 0x04); b1(w, 0x7F)                      # add al, 7Fh: sets OF from bit 0
    b1(w, 0x9E)                                   # sahf
    for r in range(1, 16):
        if in_host_register(r):
            absolute(w, 8, 0x8B, r, r * 8)
    absolute(w, 8, 0x8B, 10, FLAT_HOST)           # r10 and r11: constants outside 64-bit mode
    b1(w, 0x41); b1(w, 0xBB); b4(w, 63)           # mov r11d, 63
    absolute(w, 8, 0x8B, 8, RIP)                  # r8 := RIP, which a thunk checks
    absolute(w, 8, 0x8B, 0, 0)
    absolute(w, 8, 0x8B, 4, RSP_IN_OUT)
    b1(w, 0xFF); b1(w, 0x24); b1(w, 0x25)         # jmp [entry]
    b4(w, <u32>(w.block + ENTRY))


cdef void emit_common(Writer* w) noexcept nogil:
    cdef u32 r
    for r in range(16):
        if in_host_register(r):
            absolute(w, 8, 0x89, r, r * 8)
    absolute(w, 8, 0x89, 4, RSP_IN_OUT)
    absolute(w, 8, 0x8B, 4, HOST_RSP)
    b1(w, 0x9C)                                   # pushfq
    b1(w, 0x8F); b1(w, 0x04); b1(w, 0x25)         # pop [host_flags]
    b4(w, <u32>(w.block + HOST_FLAGS))
    b1(w, 0xFC)                                   # cld
    test_align(w)
    b1(w, 0x74); b1(w, 7)                         # jz over
    b1(w, 0x9C)                                   # pushfq
    b1(w, 0x80); b1(w, 0x64); b1(w, 0x24); b1(w, 2); b1(w, 0xFB)  # and byte [rsp + 2], ~AC
    b1(w, 0x9D)                                   # popfq
    pop_saved(w)


cdef StubSet emit_stubs(u8* out, u64 block) noexcept nogil:
    cdef Writer w
    cdef StubSet s
    w.out = out
    w.n = 0
    w.block = block
    s.at[STUB_ENTER] = w.n
    emit_enter(&w)
    s.enter_end = w.n
    s.at[STUB_INDIRECT] = w.n
    absolute(&w, 8, 0x89, 8, RIP)                 # mov [rip], r8
    emit_leave_code(&w, LEAVE_INDIRECT)
    emit_common(&w)
    s.at[STUB_LINK] = w.n
    emit_leave_code(&w, LEAVE_LINK)
    emit_common(&w)
    s.at[STUB_OP] = w.n
    emit_leave_code(&w, LEAVE_OP)
    emit_common(&w)
    s.at[STUB_STALE] = w.n
    emit_leave_code(&w, LEAVE_STALE)
    emit_common(&w)
    s.at[STUB_LEAVE] = w.n
    pop_saved(&w)
    s.size = w.n
    return s
