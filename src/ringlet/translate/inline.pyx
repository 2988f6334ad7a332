"""Sensitive operations that need not leave translated code: those of a kernel's entry and exit.

At CPL 0 they cannot fault, apart from PUSHF, whose host instruction does.  No flag changes.  Those
that use neither the stack nor a window are the same in 16- and 32-bit code.
"""
from ringlet.core.state cimport (
    FLAG_IF, KEY_CPL, KEY_MODE64, KEY_STEP, RAX, RDX, RSP, CpuState, u8, u32)
from ringlet.core.ops cimport OP_CLI, OP_MOV_FROM_CR, OP_PUSHF, OP_RDTSC, OP_STI, OP_SWAPGS
from ringlet.translate.insn cimport PFX_66, PFX_LOCK, Insn
from ringlet.translate.builder cimport *
from ringlet.translate.flow cimport emit_op
from ringlet.translate.operands cimport lookup, probe

cdef CpuState* _null = NULL
cdef u32 IFLAG = <u32><size_t>&_null.arch.iflag
cdef u32 RFLAGS = <u32><size_t>&_null.arch.rflags
cdef u32 ARITH = <u32><size_t>&_null.arith_mask
cdef u32 INTR = <u32><size_t>&_null.intr
cdef u32 GS_HOST = <u32><size_t>&_null.gs_host
cdef u32 GS_BASE = <u32><size_t>&_null.arch.seg[5].base
cdef u32 KERNEL_GS_BASE = <u32><size_t>&_null.arch.kernel_gs_base
cdef u32 CR2 = <u32><size_t>&_null.arch.cr2
cdef u32 TSC_OFFSET = <u32><size_t>&_null.arch.tsc_offset

cdef enum:
    OP_ROOM = 256            # bytes that two operations take at most


cdef inline void mask_flags(Builder* b, u32 kind) noexcept nogil:
    """PEXT (kind BAh) or PDEP (BBh) r8, r8, [arith_mask]."""
    e8(b, 0xC4); e8(b, 0x62); e8(b, kind); e8(b, 0xF5)
    e8(b, 0x04); e8(b, 0x25)
    reloc(b, RELOC_STATE, ARITH)
    e32(b, <u32>(b.block + ARITH))


cdef void push_flags(Builder* b) noexcept nogil:
    """Push the host's flags first, which raises any fault before a change, then replace them."""
    e8(b, 0x9C)                                               # pushfq
    e8(b, 0x41); e8(b, 0x58)                                  # pop r8
    mask_flags(b, 0xBA)
    mask_flags(b, 0xBB)
    load_state(b, H9, RFLAGS)
    lea_sum(b, H8, H8, H9, 0)
    load_state(b, H9, IFLAG)
    lea_sum(b, H8, H8, H9, 0)
    e8(b, 0x41); e8(b, 0x50)                                  # push r8
    b.sp_moved = 0


cdef int set_interrupts(Builder* b, Insn* i) noexcept nogil:
    """Set IF in place if no interrupt waits.

    One that comes later is taken at the end of the fragment, so that its next instruction is in the
    shadow of STI, if there is one and it does not leave before it is done.
    """
    cdef u32 over
    if b.checked or i == &b.insns[b.count - 1] or b.n_ops >= MAX_OPS \
            or b.n + OP_ROOM > FRAGMENT_FULL // 2 or b.n_map > MAX_MAP - 3 * MAX_INSNS:
        return 0
    probe(b)
    state_op(b, 0, 0x8B, H8, INTR)                            # mov r8d, [intr]
    e8(b, 0x49); e8(b, 0x87); e8(b, 0xC8)                     # xchg r8, rcx
    e8(b, 0xE3)                                               # jrcxz over
    over = b.n
    e8(b, 0)
    e8(b, 0x49); e8(b, 0x87); e8(b, 0xC8)                     # xchg r8, rcx
    emit_op(b, i, OP_STI)
    b.out[over] = <u8>(b.n - over - 1)
    e8(b, 0x49); e8(b, 0x87); e8(b, 0xC8)                     # xchg r8, rcx
    store_state_imm(b, IFLAG, FLAG_IF)
    b.ops[b.n_ops - 1].resume = b.n
    return 1


cdef void swap_gs(Builder* b) noexcept nogil:
    load_state(b, H8, KERNEL_GS_BASE)
    load_state(b, H9, GS_BASE)
    store_state(b, H8, GS_BASE)
    store_state(b, H9, KERNEL_GS_BASE)
    lookup(b, H9, H8)
    lea_sum(b, H8, H8, H9, 0)
    store_state(b, H8, GS_HOST)


cdef void read_time_stamp(Builder* b) noexcept nogil:
    """Add the guest's offset to the host's counter."""
    e8(b, 0x0F); e8(b, 0x31)                                  # rdtsc
    rorx(b, H8, RDX, 32)
    lea_sum(b, H8, H8, RAX, 0)
    load_state(b, H9, TSC_OFFSET)
    lea_sum(b, H8, H8, H9, 0)
    rorx(b, H9, H8, 32)
    e8(b, 0x44); e8(b, 0x89); e8(b, 0xC0)                     # mov eax, r8d
    e8(b, 0x44); e8(b, 0x89); e8(b, 0xCA)                     # mov edx, r9d


cdef int read_fault_address(Builder* b, Insn* i) noexcept nogil:
    """Emit MOV from CR2, which a kernel reads at each page fault."""
    cdef u32 reg = i.modrm & 7
    if i.modrm >> 3 & 7 != 2 or i.rex & 5 or reg == RSP or i.prefixes & PFX_LOCK:
        return 0
    state_op(b, 1 if b.key & KEY_MODE64 else 0, 0x8B, reg, CR2)
    return 1


cdef int emit_inline_op(Builder* b, Insn* i) noexcept nogil:
    cdef u32 op = i.shape.op
    if (b.key & KEY_CPL) != 0 or (b.key & KEY_STEP):
        return 0
    if op == OP_CLI:
        store_state_imm(b, IFLAG, 0)
        return 1
    if op == OP_STI:
        return set_interrupts(b, i)
    if op == OP_RDTSC:
        read_time_stamp(b)
    elif op == OP_MOV_FROM_CR:
        if not read_fault_address(b, i):
            return 0
    elif not b.key & KEY_MODE64:
        return 0
    elif op == OP_PUSHF and not i.prefixes & PFX_66:
        push_flags(b)
        return 1
    elif op == OP_SWAPGS:
        swap_gs(b)
    else:
        return 0
    b.n_bindings = 0
    b.zero_extended = b.sign_extended = 0
    return 1
