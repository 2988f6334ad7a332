"""Lengths of instructions, and which of them are sensitive, for screening."""
from ringlet.core.state cimport u8, u32

cdef enum:
    PAGE = 4096
    # What a byte sequence is.
    PLAIN = 0
    ANYWHERE = 1             # refused wherever it stands
    IN_SEQUENCE = 2          # refused where decoding comes to it
    NOTHING = 3              # no instruction

# The length of the instruction at an offset, and its kind.  The length is 1 if there is no
# instruction, and reaches the end if its opcode or ModRM byte is beyond.  `cpuid` says whether CPUID
# needs translation.
cdef u32 instruction(const u8* page, u32 at, u32 size, bint cpuid, u32* kind) noexcept nogil
# Classify the instruction 0F, opcode, ModRM; `repeated`: F3 may be among its prefixes.
cdef u32 classify(u8 opcode, u8 modrm, bint repeated, bint cpuid) noexcept nogil
# Tell whether F3 may be among the prefixes before an offset.
cdef bint repeats(const u8* page, u32 at) noexcept nogil
# Tell whether 0F and an opcode are a sensitive instruction without another byte.
cdef inline bint is_whole(u8 opcode) noexcept nogil:
    return opcode == 0xA2 or opcode == 0x34
