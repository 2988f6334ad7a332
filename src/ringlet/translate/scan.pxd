"""Decoding of a fragment's instructions, and which status flags are live before each."""
from ringlet.core.state cimport u32
from ringlet.translate.builder cimport Builder
from ringlet.translate.insn cimport Insn

cdef enum:
    STATUS = 0x8D5        # CF PF AF ZF SF OF

# What translation comes to.
cdef enum:
    TRANSLATE_OK = 0
    TRANSLATE_LEARN = 1   # b.learn_at: an instruction whose shape is unknown
    TRANSLATE_CROSS = 2   # the first instruction continues past the given bytes
    TRANSLATE_PROTECT = 3 # checked: the first instruction needs a fragment that is not checked

# OP_NM or OP_UD if the guest has disabled the instruction's unit, else OP_NONE.
cdef u32 unit_op(Builder* b, Insn* i) noexcept nogil
# Begin a translation: decode up to `limit` instructions into b.insns, and find the flags that are
# live before each: TRANSLATE_*.
cdef int begin_fragment(Builder* b) noexcept nogil
# End the fragment after instruction `last`, if that is not the last one anyway.  True: it has to be
# translated anew, with that limit.
cdef bint cut_after(Builder* b, u32 last) noexcept nogil
# Record what the finished fragment depends on.
cdef void note_fragment(Builder* b) noexcept nogil
