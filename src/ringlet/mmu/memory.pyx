"""Guest RAM: one memfd, its mapping for the host side, and plain copies from and to it.

The file is sealed against a change of size, so that no mapping of it can ever raise SIGBUS.
"""
from libc.errno cimport errno
from libc.string cimport strerror
from posix.mman cimport mmap, munmap, MAP_FAILED, MAP_SHARED, MAP_NORESERVE, PROT_READ, PROT_WRITE
from posix.unistd cimport close, ftruncate

from ringlet.core.state cimport u8, u64
from ringlet.mmu.layout cimport Mmu, PAGE_SIZE

cdef extern from * nogil:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <fcntl.h>
    #include <sys/mman.h>
    """
    int memfd_create(const char* name, unsigned int flags)
    int fcntl(int fd, int cmd, int arg)
    int MFD_CLOEXEC, MFD_ALLOW_SEALING, F_ADD_SEALS, F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_GROW
    int MADV_DONTDUMP
    int madvise(void* start, size_t size, int advice)


cdef int ram_create(Mmu* m, u64 size) except -1:
    """Make `size` bytes of guest RAM: up to 3 GiB from guest physical 0, the rest from 4 GiB."""
    cdef void* host
    if size == 0 or size % PAGE_SIZE:
        raise ValueError(f"guest RAM of {size} bytes: give a positive multiple of 4096")
    m.fd = memfd_create(b"ringlet-ram", MFD_CLOEXEC | MFD_ALLOW_SEALING)
    if m.fd < 0:
        raise OSError(errno, f"cannot create guest RAM: {strerror(errno).decode()}")
    if (ftruncate(m.fd, size) != 0
            or fcntl(m.fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0):
        close(m.fd)
        m.fd = -1
        raise OSError(errno, f"cannot size guest RAM to {size} bytes: {strerror(errno).decode()}")
    host = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, m.fd, 0)
    if host == MAP_FAILED:
        close(m.fd)
        m.fd = -1
        raise OSError(errno, f"cannot map {size} bytes of guest RAM: {strerror(errno).decode()}")
    madvise(host, size, MADV_DONTDUMP)
    m.ram = <u8*>host
    m.ram_size = size
    m.low_size = min(size, <u64>3 << 30)
    return 0


cdef void ram_destroy(Mmu* m) noexcept:
    if m.ram != NULL:
        munmap(m.ram, m.ram_size)
        m.ram = NULL
    if m.fd >= 0:
        close(m.fd)
        m.fd = -1


cdef void copy_bytes(u8* dst, const u8* src, u64 size) noexcept nogil:
    """memcpy that touches no vector register."""
    cdef u64 i = 0
    while i + 8 <= size:
        (<u64*>(dst + i))[0] = (<const u64*>(src + i))[0]
        i += 8
    while i < size:
        dst[i] = src[i]
        i += 1
