"""What the host's processor does where those of one vendor differ: it is tried out."""
from cpython.bytes cimport PyBytes_AsString
from libc.string cimport memcpy

from ringlet.core.signals cimport enter_thread, leave_thread
from ringlet.core.state cimport (
    BLOCK_BOUNCE, CONDUCT_LOOP_TAKES_REPETITION, CONDUCT_REPE_CMPSB_TARGET_FIRST, FLAG_IF,
    NATIVE_DONE, RCX, RDI, VEC_GP, VEC_UD, CpuState, u8, u64)
from ringlet.vcpu.emulation.native cimport (
    BOUNCE_ENTRY, BOUNCE_FLAGS_IN, BOUNCE_IN, IMAGE_SIZE, Native)

from ringlet.vcpu.model import conduct_of


cdef u64 vector_of(Native native, bytes code) except? 0xFFFFFFFF:
    """Run code with RCX = 1 and [RDI] not canonical; return the vector of its exception."""
    cdef CpuState* c = native.c
    cdef u64* regs = <u64*>(c.block + BLOCK_BOUNCE + BOUNCE_IN)
    cdef u8* image = native.image()
    cdef bytes kept = image[:IMAGE_SIZE]
    cdef int i
    for i in range(16):
        regs[i] = 0
    regs[RCX] = 1
    regs[RDI] = <u64>1 << 62
    (<u64*>(c.block + BLOCK_BOUNCE + BOUNCE_FLAGS_IN))[0] = FLAG_IF | 2
    (<u64*>(c.block + BLOCK_BOUNCE + BOUNCE_ENTRY))[0] = native.place(code)
    c.native_vector = NATIVE_DONE
    enter_thread(c)
    (<void (*)() noexcept nogil>native.enter)()
    leave_thread()
    native.forget()
    memcpy(image, PyBytes_AsString(kept), IMAGE_SIZE)
    return c.native_vector


cdef bint reads_target_first(Native native) except -1:
    """Whether the host's REPE CMPSB reads [rDI] before [rSI], which is not mapped."""
    return vector_of(native, bytes.fromhex("f3a6")) == VEC_GP


cdef bint loops_by_repetition(Native native) except -1:
    """Whether F3 makes LOOPE of the host's LOOPNE.

    mov cl, 2; repe loopne 1f; ud2; 1: mov eax, [rdi]
    """
    return vector_of(native, bytes.fromhex("b102 f3e002 0f0b 8b07")) == VEC_UD


cdef u64 conduct_on_host(Native native, vendor) except? 0xFFFFFFFF:
    """Return the conduct of `vendor`'s processors, or, without one, that of the host's own."""
    cdef u64 conduct = conduct_of(vendor)
    if vendor is None:
        conduct &= ~<u64>(CONDUCT_REPE_CMPSB_TARGET_FIRST | CONDUCT_LOOP_TAKES_REPETITION)
        if reads_target_first(native):
            conduct |= CONDUCT_REPE_CMPSB_TARGET_FIRST
        if loops_by_repetition(native):
            conduct |= CONDUCT_LOOP_TAKES_REPETITION
    return conduct
