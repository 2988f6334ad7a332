"""Doorbells: writes that only notify, passed on without Python.

A write of a certain size, and of one value or any, to an address where there is no RAM, or to a
port, adds 1 to an eventfd.  The bus does not see it.  Another thread waits for the eventfd, so that
a device's queue is served while the guest runs on.

The guest chooses the addresses by moving a device's ranges, so the table is a hash table whose
number of entries is bounded.  Only the processor's own thread changes it.
"""
from libc.errno cimport errno
from libc.stdlib cimport calloc, free
from libc.string cimport strerror
from posix.fcntl cimport F_GETFL, O_NONBLOCK, fcntl
from posix.unistd cimport close
from ringlet.core.state cimport CpuState, u8, u16, u32, u64

cdef extern from * nogil:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <fcntl.h>
    #include <sys/syscall.h>
    #include <unistd.h>

    /* The counter of an eventfd that would overflow stays as it is: the notification is there. */
    static inline void ringlet_ring(int fd)
    {
        static const unsigned long one = 1;
        syscall(SYS_write, fd, &one, sizeof one);
    }
    """
    void ringlet_ring(int fd)
    int F_DUPFD_CLOEXEC

cdef enum:
    DOORBELLS = 512
    BUCKET_BITS = 10
    BUCKETS = 1024

cdef struct Doorbell:
    u64 address
    u64 value
    u32 size
    u8 kind
    u8 any_value
    u16 next                  # 1 + the next one in the bucket, or in the list of free ones; or 0
    int fd

cdef struct Doorbells:
    u32 count
    u16 unused                # 1 + the first free entry, or 0
    u16 bucket[BUCKETS]       # 1 + its first entry, or 0
    Doorbell bell[DOORBELLS]


cdef inline u32 bucket_of(u32 kind, u64 address, u32 size, bint any_value,
                          u64 value) noexcept nogil:
    cdef u64 mixed = address * <u64>0x9E3779B97F4A7C15 + kind + (size << 1) + (any_value << 5)
    if not any_value:
        mixed += value * <u64>0xC2B2AE3D27D4EB4F
    mixed ^= mixed >> 32
    return <u32>(mixed * <u64>0x9E3779B97F4A7C15 >> (64 - BUCKET_BITS))


cdef inline bint fits(Doorbell* bell, u32 kind, u64 address, u32 size, bint any_value,
                      u64 value) noexcept nogil:
    return (bell.address == address and bell.size == size and bell.kind == kind
            and bell.any_value == any_value and (any_value or bell.value == value))


cdef u16* place_of(Doorbells* d, u32 kind, u64 address, u32 size, bint any_value,
                   u64 value) noexcept nogil:
    """Return where the number of a doorbell is: it is 0 if there is none."""
    cdef u16* at = &d.bucket[bucket_of(kind, address, size, any_value, value)]
    while at[0] and not fits(&d.bell[at[0] - 1], kind, address, size, any_value, value):
        at = &d.bell[at[0] - 1].next
    return at


cdef bint doorbell_rings(CpuState* c, u32 kind, u64 address, u32 size, u64 value) noexcept nogil:
    cdef Doorbells* d = <Doorbells*>c.doorbells
    cdef u32 number
    if d == NULL or not d.count:
        return False
    number = place_of(d, kind, address, size, True, 0)[0]
    if not number:
        number = place_of(d, kind, address, size, False, value)[0]
    if not number:
        return False
    c.n_doorbells += 1
    ringlet_ring(d.bell[number - 1].fd)
    return True


cdef Doorbells* doorbells_create() except NULL:
    cdef Doorbells* d = <Doorbells*>calloc(1, sizeof(Doorbells))
    cdef u32 i
    if d == NULL:
        raise MemoryError("doorbells")
    for i in range(DOORBELLS):
        d.bell[i].next = <u16>(i + 2)
    d.bell[DOORBELLS - 1].next = 0
    d.unused = 1
    return d


cdef int duplicate_attach(int fd) except -1:
    """Return a duplicate of an eventfd, so that its number cannot come to name another file."""
    cdef int flags = fcntl(fd, F_GETFL)
    cdef int own
    if flags < 0 or not flags & O_NONBLOCK:
        raise ValueError("a doorbell needs an eventfd that does not block (EFD_NONBLOCK)")
    own = fcntl(fd, F_DUPFD_CLOEXEC, 0)
    if own < 0:
        raise OSError(errno, f"cannot keep an eventfd: {strerror(errno).decode()}")
    return own


cdef bint doorbell_attach(CpuState* c, u32 kind, u64 address, u32 size, bint any_value, u64 value,
                       int fd) except -1:
    cdef Doorbells* d = <Doorbells*>c.doorbells
    cdef Doorbell* bell
    cdef u16* place
    cdef int own
    if d == NULL:
        d = doorbells_create()
        c.doorbells = d
    place = place_of(d, kind, address, size, any_value, value)
    if not place[0] and not d.unused:
        return False
    own = duplicate_attach(fd)
    if place[0]:
        bell = &d.bell[place[0] - 1]
        close(bell.fd)
        bell.fd = own
        return True
    place[0] = d.unused
    bell = &d.bell[d.unused - 1]
    d.unused = bell.next
    d.count += 1
    bell.address = address
    bell.value = value
    bell.size = size
    bell.kind = <u8>kind
    bell.any_value = any_value
    bell.next = 0
    bell.fd = own
    return True


cdef void doorbell_detach(CpuState* c, u32 kind, u64 address, u32 size, bint any_value,
                          u64 value) noexcept:
    cdef Doorbells* d = <Doorbells*>c.doorbells
    cdef Doorbell* bell
    cdef u16* place
    cdef u16 number
    if d == NULL:
        return
    place = place_of(d, kind, address, size, any_value, value)
    number = place[0]
    if not number:
        return
    bell = &d.bell[number - 1]
    place[0] = bell.next
    close(bell.fd)
    bell.next = d.unused
    d.unused = number
    d.count -= 1


cdef void doorbells_destroy(CpuState* c) noexcept:
    cdef Doorbells* d = <Doorbells*>c.doorbells
    cdef u32 i, number
    if d == NULL:
        return
    for i in range(BUCKETS):
        number = d.bucket[i]
        while number:
            close(d.bell[number - 1].fd)
            number = d.bell[number - 1].next
    free(d)
    c.doorbells = NULL
