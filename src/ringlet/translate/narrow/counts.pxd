"""The count of LOOP, JCXZ and REP in rcx, for JRCXZ, which is shorter than JECXZ."""
from ringlet.core.state cimport RCX
from ringlet.translate.builder cimport *
from ringlet.translate.insn cimport Insn


cdef inline void take_cx(Builder* b, Insn* i) noexcept nogil:
    """rcx := the count, which ECX holds zero-extended; `give_cx` takes back what this does to it."""
    if i.address == 2:
        movzx16(b, H8, RCX)
        mov_rr(b, H9, RCX)
        mov_rr(b, RCX, H8)


cdef inline void give_cx(Builder* b, Insn* i) noexcept nogil:
    if i.address == 2:
        mov_rr(b, RCX, H9)
