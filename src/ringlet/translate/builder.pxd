"""The state of a translation in progress, and the emission of its bytes.

Host registers (docs/adr/0001): r8 and r9 are scratch, r10 and r11 the addends of the fragment's two
windows, RSP the guest's RSP plus its slot's addend; guest r8-r11 live in `CpuState.arch.gpr`.
"""
from ringlet.core.state cimport u8, u16, u32, u64, i16, i32, i64, OpInfo
from ringlet.core.template cimport *
from ringlet.translate.insn cimport FREE_DISP, Insn, ShapeTable

cdef enum:
    MAX_INSNS = 96
    MAX_CODE = 24576
    MAX_RELOCS = 3072
    MAX_COLD = 512
    MAX_MAP = 1024
    MAX_LINKS = 128
    MAX_OPS = MAX_INSNS
    MAX_BINDINGS = 8
    FRAGMENT_FULL = MAX_CODE - 1024
    MAX_CHECKED = 128   # guest bytes of a checked fragment
    MAX_CHECKS = 32
    MAX_EXACT = 96
    MAX_FREE = 64

cdef enum:
    H8 = 8
    H9 = 9
    WINDOW = 10       # the first of the windows' addends
    WINDOWS = 2
    HELD = 4
    SPILLED = 0xF00   # guest r8-r11, one bit each

cdef struct Cold:
    u32 at            # offset of the rel32 that jumps to it
    u32 back          # offset to which it returns
    u16 guest
    u8 window         # host register of the window that it opens
    u8 pad

# A sum of guest registers, base + index * scale, that is known to be in one of the windows, or a
# spilled register of which a window register holds a copy.
cdef struct Binding:
    u8 base           # guest register or NO_REG
    u8 index
    u8 scale          # 0..3; HELD: the window register holds the value of `base` itself
    u8 accessed       # an access through it was performed in this pass of the loop
    u32 window        # host register with the addend
    u32 moved         # distance in bytes that it may have moved since the last access

cdef struct Ref:
    u8 base           # host register or NO_REG
    u8 index
    u8 scale          # 0..3
    u8 own            # FREE_DISP, FREE_IMM: disp is this field of the guest's instruction, and far
    i32 disp
    i32 linear        # 1: disp is linear address + disp (RELOC_RIP32)

# Bytes from `start` up to, not including, `end`; offsets count from the fragment's first byte.
cdef struct Span:
    i16 start
    i16 end

cdef struct Builder:
    ShapeTable* shapes
    const u8* code
    u32 avail         # bytes that may be read at code
    u32 before        # readable bytes of the same page before code
    u32 limit         # maximum number of instructions
    u32 room          # no instruction begins after this many bytes; 0: no limit
    u32 key
    u64 linear        # the fragment's linear address, which gives its offset in the page
    u64 rip           # the guest's RIP there, with which its code computes
    u64 block         # host address of the block below 2 GiB
    u32 slots         # BLOCK_SLOTS_K or _U
    u32 nslots
    u32 small         # linear addresses of the fragment fit in a sign-extended 32-bit field
    u32 count
    u32 n
    u32 n_relocs
    u32 n_cold
    u32 n_map
    u32 n_links
    u32 n_ops
    u32 thunk         # offset of the entry for indirect jumps; 0xFFFFFFFF: none
    u32 body          # offset of the first instruction's translation
    u32 tail          # offset of the first code out of line
    u32 guest_bytes
    u32 full          # out of room: the fragment must be cut here
    u32 n_bindings
    u32 maybe         # the current instruction may not perform its access
    Insn* now         # the current instruction
    u32 current       # its guest offset
    u32 loop_at       # offset of the rel32 of a jump back to the first instruction; 0: none
    u32 loop_last     # the instruction that jumps back
    u32 loop_zero     # zero_extended at that jump
    u32 loops         # a branch leads back to the first instruction
    u32 chained       # guest registers loaded from memory, in a loop also by the pass before
    u32 carried       # guest registers that a pass of a loop changes for the next
    u32 in_loop       # emitting the copy of a loop's body
    u32 n_loop
    u32 pinned        # host registers that the current instruction uses, one bit each
    u32 results       # spilled registers whose new values the current instruction leaves in:
    u8 result_in[4]   # host registers, for r8-r11
    Binding bindings[MAX_BINDINGS]
    Binding loop[MAX_BINDINGS]   # bindings at that jump
    u32 zero_extended # guest registers whose upper halves are zero
    u32 sign_extended # guest registers with 64-bit values of 32 significant bits
    u32 sp_moved      # bytes RSP moved since it was bound or last used for an access
    u32 indirect      # offset of the jump through the table, or 0xFFFFFFFF
    u32 learn_at      # offset of the instruction whose shape is not known
    u32 unlearned     # the look-ahead found an instruction whose shape is not known
    u32 speculate     # predictions are allowed, and flags may be lost where they are dead
    u32 checked       # compare the guest bytes on entry
    u32 watched       # blocks are watched: operations of 16- and 32-bit code end them
    u32 al_in_r9      # offset of the instruction at which r9 holds AL, or 0: LODSB comes before it
    u32 once          # checked: a repeated store performs one repetition, then compares again
    u32 n_checks
    u32 checks[MAX_CHECKS]       # offsets of the rel32s that lead to the stale exit
    const u8* source  # checked: address of the guest bytes; `code` is a copy
    u32 has_devices   # some instructions of the page have met devices:
    u64 devices[64]   # one bit for each offset in the page at which such a one begins
    u32 met_devices   # and some of these are in the fragment
    u32 noting        # record the dependencies of the translation
    u32 scanned       # instructions decoded; there may be fewer in the fragment
    u32 scan_end      # the end of the inspected bytes
    u32 n_exact
    u32 n_free
    u32 overflowed    # there was no room for all dependencies
    Span exact[MAX_EXACT]    # guest bytes that must not change
    i16 free[MAX_FREE]       # 32-bit fields that must only be far (ringlet.translate.insn)
    u64 starts[64]           # one bit for each offset at which an instruction was decoded
    u16 live_out      # status flags live where the fragment ends
    Insn insns[MAX_INSNS]
    Reloc relocs[MAX_RELOCS]
    Cold cold[MAX_COLD]
    MapEntry map[MAX_MAP]
    Link links[MAX_LINKS]
    OpInfo ops[MAX_OPS]
    u8 crossing[32]   # bytes of an instruction that crosses into another page
    u8 copy[MAX_CHECKED]
    u64 page[512]     # a copy of the page that is translated: devices may change it meanwhile
    u8 out[MAX_CODE]

cdef inline void e8(Builder* b, u32 v) noexcept nogil:
    b.out[b.n] = <u8>v
    b.n += 1

cdef inline void e32(Builder* b, u32 v) noexcept nogil:
    (<u32*>(b.out + b.n))[0] = v
    b.n += 4

cdef inline void e64(Builder* b, u64 v) noexcept nogil:
    (<u64*>(b.out + b.n))[0] = v
    b.n += 8

cdef inline void reloc(Builder* b, u32 kind, i64 value) noexcept nogil:
    if b.n_relocs < MAX_RELOCS:
        b.relocs[b.n_relocs].at = b.n
        b.relocs[b.n_relocs].kind = kind
        b.relocs[b.n_relocs].value = value
        b.n_relocs += 1
    else:
        b.full = 1

# --- operands

cdef inline u32 rex_of(u32 w, u32 reg, Ref* r) noexcept nogil:
    """Return the REX bits (0100WRXB without 0100) for a register field and a memory operand."""
    cdef u32 rex = (w << 3) | ((reg >> 3) << 2)
    if r.index != 0xFF:
        rex |= ((r.index >> 3) & 1) << 1
    if r.base != 0xFF:
        rex |= (r.base >> 3) & 1
    return rex

cdef inline void free_field(Builder* b, Insn* i, u32 which) noexcept nogil:
    """Record that a field of `i` is only copied."""
    i.free |= which
    reloc(b, RELOC_FIELD, <i64>i.offset + i.imm_at - (4 if which == FREE_DISP else 0))

cdef inline void disp32(Builder* b, Ref* r) noexcept nogil:
    if r.linear:
        reloc(b, RELOC_RIP32, r.disp)
    elif r.own:
        free_field(b, b.now, r.own)
    e32(b, <u32>r.disp)

cdef inline void modrm_mem(Builder* b, u32 reg, Ref* r) noexcept nogil:
    """Emit ModRM, SIB and displacement in the shortest form."""
    cdef u32 mod
    reg = (reg & 7) << 3
    if r.base == 0xFF:
        e8(b, reg | 4)
        e8(b, (r.scale << 6) | ((4 if r.index == 0xFF else r.index & 7) << 3) | 5)
        disp32(b, r)
        return
    if r.linear:
        mod = 2
    elif r.disp == 0 and (r.base & 7) != 5:
        mod = 0
    elif r.disp >= -128 and r.disp <= 127:
        mod = 1
    else:
        mod = 2
    if r.index == 0xFF and (r.base & 7) != 4:
        e8(b, (mod << 6) | reg | (r.base & 7))
    else:
        e8(b, (mod << 6) | reg | 4)
        e8(b, (r.scale << 6) | ((4 if r.index == 0xFF else r.index & 7) << 3) | (r.base & 7))
    if mod == 1:
        e8(b, <u32>r.disp)
    elif mod == 2:
        disp32(b, r)

cdef inline Ref ref_mem(u8 base, i32 disp) noexcept nogil:
    cdef Ref r
    r.base = base
    r.index = 0xFF
    r.scale = 0
    r.own = 0
    r.disp = disp
    r.linear = 0
    return r

cdef inline Ref ref_sum(u8 base, u8 index, i32 disp) noexcept nogil:
    cdef Ref r
    r.base = base
    r.index = index
    r.scale = 0
    r.own = 0
    r.disp = disp
    r.linear = 0
    return r

# --- single instructions

cdef inline void state_op(Builder* b, u32 w, u32 opcode, u32 reg, u32 offset) noexcept nogil:
    """`opcode reg, [state + offset]` (or the store form)."""
    cdef u32 rex = (w << 3) | ((reg >> 3) << 2)
    if rex:
        e8(b, 0x40 | rex)
    e8(b, opcode)
    e8(b, ((reg & 7) << 3) | 4)
    e8(b, 0x25)
    reloc(b, RELOC_STATE, offset)
    e32(b, <u32>(b.block + offset))

cdef inline void load_state(Builder* b, u32 reg, u32 offset) noexcept nogil:
    state_op(b, 1, 0x8B, reg, offset)

cdef inline void store_state(Builder* b, u32 reg, u32 offset) noexcept nogil:
    state_op(b, 1, 0x89, reg, offset)

cdef inline void store_state_imm32(Builder* b, u32 offset, u32 imm) noexcept nogil:
    """`mov dword [state + offset], imm32`."""
    e8(b, 0xC7); e8(b, 0x04); e8(b, 0x25)
    reloc(b, RELOC_STATE, offset)
    e32(b, <u32>(b.block + offset))
    e32(b, imm)

cdef inline void store_state_imm(Builder* b, u32 offset, u32 imm) noexcept nogil:
    """`mov qword [state + offset], imm32` sign-extended."""
    e8(b, 0x48)
    store_state_imm32(b, offset, imm)

cdef inline void mov_rr(Builder* b, u32 dst, u32 src) noexcept nogil:
    e8(b, 0x48 | ((src >> 3) << 2) | (dst >> 3))
    e8(b, 0x89)
    e8(b, 0xC0 | ((src & 7) << 3) | (dst & 7))

cdef inline void lea(Builder* b, u32 dst, Ref* r) noexcept nogil:
    e8(b, 0x48 | rex_of(0, dst, r))
    e8(b, 0x8D)
    modrm_mem(b, dst, r)

cdef inline void lea_sum(Builder* b, u32 dst, u8 base, u8 index, i32 disp) noexcept nogil:
    cdef Ref r = ref_sum(base, index, disp)
    lea(b, dst, &r)

cdef inline void lea_disp(Builder* b, u32 dst, u8 base, i32 disp) noexcept nogil:
    cdef Ref r = ref_mem(base, disp)
    lea(b, dst, &r)

cdef inline void lea32(Builder* b, u32 dst, Ref* r) noexcept nogil:
    """A sum of 32 bits, which wraps around."""
    cdef u32 rex = rex_of(0, dst, r)
    if rex:
        e8(b, 0x40 | rex)
    e8(b, 0x8D)
    modrm_mem(b, dst, r)

cdef inline void sum32(Builder* b, u32 dst, u8 base, u8 index, i32 disp) noexcept nogil:
    cdef Ref r = ref_sum(base, index, disp)
    lea32(b, dst, &r)

cdef inline void load_word(Builder* b, u32 dst, Ref* r) noexcept nogil:
    """`movzx dst32, word [r]`."""
    cdef u32 rex = rex_of(0, dst, r)
    if rex:
        e8(b, 0x40 | rex)
    e8(b, 0x0F); e8(b, 0xB7)
    modrm_mem(b, dst, r)

cdef inline void load_mem(Builder* b, u32 dst, Ref* r) noexcept nogil:
    e8(b, 0x48 | rex_of(0, dst, r))
    e8(b, 0x8B)
    modrm_mem(b, dst, r)

cdef inline void rorx(Builder* b, u32 dst, u32 src, u32 count) noexcept nogil:
    """`rorx dst, src, count`, 64 bits: moves address bits down and touches no flag."""
    e8(b, 0xC4)
    e8(b, 0x43 | ((1 - (dst >> 3)) << 7) | ((1 - (src >> 3)) << 5))
    e8(b, 0xFB)
    e8(b, 0xF0)
    e8(b, 0xC0 | ((dst & 7) << 3) | (src & 7))
    e8(b, count)

cdef inline void movzx16(Builder* b, u32 dst, u32 src) noexcept nogil:
    e8(b, 0x40 | ((dst >> 3) << 2) | (src >> 3))
    e8(b, 0x0F); e8(b, 0xB7)
    e8(b, 0xC0 | ((dst & 7) << 3) | (src & 7))

cdef inline void load_table(Builder* b, u32 dst, u32 index, u32 table) noexcept nogil:
    """`mov dst, [index * 8 + table]`."""
    e8(b, 0x48 | ((dst >> 3) << 2) | ((index >> 3) << 1))
    e8(b, 0x8B)
    e8(b, ((dst & 7) << 3) | 4)
    e8(b, 0xC5 | ((index & 7) << 3))
    reloc(b, RELOC_STATE, table)
    e32(b, <u32>(b.block + table))

cdef inline void predicted_at(Builder* b, u32 reg, u32 part) noexcept nogil:
    """Emit ModRM and displacement of a part of the present instruction's prediction."""
    cdef i64 value = b.current | part << 16
    e8(b, ((reg & 7) << 3) | 4)
    e8(b, 0x25)
    reloc(b, RELOC_PREDICTED, value)
    e32(b, <u32>(b.block + prediction(b.linear, value)))

cdef inline void load_predicted(Builder* b, u32 reg) noexcept nogil:
    e8(b, 0x40 | ((reg >> 3) << 2)); e8(b, 0x0F); e8(b, 0xB7)   # movzx reg32, word [slot]
    predicted_at(b, reg, PREDICTED_SLOT)

cdef inline void store_predicted(Builder* b, u32 reg) noexcept nogil:
    e8(b, 0x66); e8(b, 0x40 | ((reg >> 3) << 2)); e8(b, 0x89)   # mov word [slot], reg16
    predicted_at(b, reg, PREDICTED_SLOT)

cdef inline void misses_imm(Builder* b, u32 operation, u32 imm) noexcept nogil:
    """Emit ADD (operation 0) or CMP (7) of the number of misses and `imm`."""
    e8(b, 0x66); e8(b, 0x83)
    predicted_at(b, operation, PREDICTED_MISSES)
    e8(b, imm)

cdef inline void cmp16(Builder* b, u32 one, u32 other) noexcept nogil:
    e8(b, 0x66)
    e8(b, 0x40 | ((other >> 3) << 2) | (one >> 3)); e8(b, 0x39)
    e8(b, 0xC0 | ((other & 7) << 3) | (one & 7))

cdef inline void mov_linear(Builder* b, u32 dst, i64 delta) noexcept nogil:
    """`mov dst, linear address of the fragment + delta`."""
    if b.small:
        e8(b, 0x48 | (dst >> 3))
        e8(b, 0xC7)
        e8(b, 0xC0 | (dst & 7))
        reloc(b, RELOC_RIP32, delta)
        e32(b, <u32>(b.linear + <u64>delta))
    else:
        e8(b, 0x48 | (dst >> 3))
        e8(b, 0xB8 | (dst & 7))
        reloc(b, RELOC_RIP64, delta)
        e64(b, b.linear + <u64>delta)

cdef inline void jmp_stub(Builder* b, u32 stub) noexcept nogil:
    e8(b, 0xE9)
    reloc(b, RELOC_STUB, stub)
    e32(b, 0)

cdef inline void jcc_stub(Builder* b, u32 condition, u32 stub) noexcept nogil:
    e8(b, 0x0F); e8(b, 0x80 | condition)
    reloc(b, RELOC_STUB, stub)
    e32(b, 0)

cdef inline void patch_rel32(Builder* b, u32 at, u32 target) noexcept nogil:
    (<u32*>(b.out + at))[0] = target - (at + 4)

cdef inline void map_here(Builder* b, u32 guest) noexcept nogil:
    if b.n_map < MAX_MAP:
        b.map[b.n_map].host = <u16>b.n
        b.map[b.n_map].guest = <u16>guest
        b.n_map += 1
    else:
        b.full = 1
