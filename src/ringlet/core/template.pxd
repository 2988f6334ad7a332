"""A translation that can be installed at any host address: bytes, relocations, links, fault map.

The translator makes it and the code cache installs it; neither depends on the other.
"""
from ringlet.core.state cimport u8, u16, u32, u64, i64, OpInfo, BLOCK_PREDICTED, PREDICTED_COUNT

# The value that a field of the translated bytes gets when they are installed at an address.
cdef enum:  # Reloc.kind
    RELOC_STATE = 0    # abs32: value is an offset in the block below 2 GiB
    RELOC_RIP32 = 1 # the fragment's RIP + value, sign-extended from 32 bits
    RELOC_RIP64 = 2
    RELOC_NRIP64 = 3  # the negative of that
    RELOC_SLOT = 4     # abs32 of the slot entry of the fragment's RIP + value
    RELOC_STUB = 5     # rel32 to stub number `value`
    RELOC_OP = 6       # abs32 of OpInfo number `value`
    RELOC_SOURCE = 7   # abs64: host address of the guest byte at offset `value` of the fragment
    RELOC_FRAGMENT = 8 # imm32: number of the fragment
    RELOC_FIELD = 9    # the guest's own 32-bit field at offset `value` of the fragment
    RELOC_FIELD64 = 10   # RIP + (value & FFFFh) + the guest's field at offset value >> 16
    RELOC_TABLE = 11   # abs32 of the jump table of the translation's key
    RELOC_PREDICTED = 12 # abs32 of a prediction: the instruction's offset | PREDICTED_* << 16
    RELOC_NRIP32 = 13  # the negative of RIP32

# What a prediction consists of, 16 bits each.
cdef enum:
    PREDICTED_SLOT = 0
    PREDICTED_MISSES = 1

cdef inline u64 prediction(u64 linear, i64 value) noexcept nogil:
    """Return the offset in the block of a prediction, of a relocation of the fragment at `linear`.

    Instructions share one if they are near, or far away: a wrong slot only costs time.
    """
    cdef u64 at = linear + <u64>(value & 0xFFFF)
    return BLOCK_PREDICTED + (at >> 2 & (PREDICTED_COUNT - 1)) * 4 + (value >> 16 & 1) * 2

# The stubs through which a translation leaves; each machine has its own (ringlet.core.stubs).
cdef enum:  # Stub
    STUB_ENTER = 0
    STUB_LINK = 1        # exit_arg: link number
    STUB_INDIRECT = 2    # r8: the target's RIP
    STUB_OP = 3          # op_info
    STUB_LEAVE = 4       # after a host signal: registers are in CpuState already
    STUB_STALE = 5       # exit_arg: the fragment whose guest bytes have changed
    STUB_COUNT = 6

# The probe of RSP, `movzx r8d, byte ptr ds:[rsp]`.  The DS prefix distinguishes it from all copies
# of guest instructions: those that use r8 have no prefix.  A one-byte access is never misaligned.
cdef enum:
    PROBE_FIRST = 0xB60F443E
    PROBE_REST = 0x2404
    PROBE_SIZE = 6

cdef inline bint is_probe(u64 host) noexcept nogil:
    """Whether the instruction at `host` is a probe."""
    return (<u32*>host)[0] == PROBE_FIRST and (<u16*>(host + 4))[0] == PROBE_REST

cdef inline u32 thunk_miss(const u8* thunk) noexcept nogil:
    """Return where a thunk, the entry for indirect jumps, has the rel32 that it takes for others.

    A thunk begins with MOV R9, RCX; then come LEA RCX, [R8 - RIP], or MOV RCX, -RIP with its W bit
    and LEA; then JRCXZ, MOV RCX, R9 and the JMP."""
    return 23 if thunk[3] == 0x48 else 16

cdef struct Reloc:
    u32 at
    u32 kind
    i64 value

cdef struct MapEntry:
    u16 host
    u16 guest

cdef struct Link:
    u32 at            # offset of the rel32 to patch
    i64 target        # target less the fragment's RIP
    u32 conditional
    u32 home          # offset to which it leads when not linked, or 0: its stub in the cache

cdef struct Template:
    u64 linear        # linear address of the first guest byte
    u64 rip           # the guest's RIP there, with which the code computes
    u32 key
    u32 guest_bytes
    u32 insns
    u32 thunk         # offset of the entry for indirect jumps; 0xFFFFFFFF: none
    u32 body          # offset of the first instruction's translation
    u32 indirect      # offset of its jump through the table, or 0xFFFFFFFF
    u32 size
    u32 n_relocs
    u32 n_map
    u32 n_links
    u32 n_ops
    u8* code
    const u8* source  # host address of the guest bytes (of a checked fragment)
    const u8* bytes   # the guest bytes that were translated
    Reloc* relocs
    MapEntry* map
    Link* links
    OpInfo* ops
