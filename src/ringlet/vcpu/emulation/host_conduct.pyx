"""What the host's processor does where those of one vendor differ: it is tried out."""
from cpython.bytes cimport PyBytes_AsString
from libc.string cimport memcpy

from ringlet.core.signals cimport enter_thread, leave_thread
from ringlet.core.state cimport (
    BLOCK_BOUNCE, CONDUCT_REPE_CMPSB_TARGET_FIRST, FLAG_IF, NATIVE_DONE, RCX, RDI, VEC_GP, CpuState,
    u8, u64)
from ringlet.vcpu.emulation.native cimport (
    BOUNCE_ENTRY, BOUNCE_FLAGS_IN, BOUNCE_IN, IMAGE_SIZE, Native)

from ringlet.vcpu.model import conduct_of


cdef bint reads_target_first(Native native) except -1:
    """Whether the host's REPE CMPSB reads [rDI] before [rSI].

    [rSI] is not mapped and [rDI] not canonical, so that the exception tells which came first.
    """
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
    (<u64*>(c.block + BLOCK_BOUNCE + BOUNCE_ENTRY))[0] = native.place(bytes.fromhex("f3a6"))
    c.native_vector = NATIVE_DONE
    enter_thread(c)
    (<void (*)() noexcept nogil>native.enter)()
    leave_thread()
    native.forget()
    memcpy(image, PyBytes_AsString(kept), IMAGE_SIZE)
    return c.native_vector == VEC_GP


cdef u64 conduct_on_host(Native native, vendor) except? 0xFFFFFFFF:
    """Return the conduct of `vendor`'s processors, or, without one, that of the host's own."""
    cdef u64 conduct = conduct_of(vendor)
    if vendor is None:
        conduct &= ~<u64>CONDUCT_REPE_CMPSB_TARGET_FIRST
        if reads_target_first(native):
            conduct |= CONDUCT_REPE_CMPSB_TARGET_FIRST
    return conduct
