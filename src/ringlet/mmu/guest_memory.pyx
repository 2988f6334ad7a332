"""Guest physical memory for devices, whose threads access it while the guest runs.

A view is a memoryview of guest RAM itself: the guest may change it at any time, and what is read
twice may differ.  Whoever writes through a view says so afterwards (`has_code`), since translations
may have been made from what was there before (docs/adr/0021).
"""
from cpython.buffer cimport PyBuffer_FillInfo
from libc.errno cimport errno
from libc.string cimport strerror

from ringlet.core.host cimport host_fence
from ringlet.core.state cimport u8, u32, u64
from ringlet.mmu.pages cimport PAGE_SHIFT, PAGE_SIZE, bit_test
from ringlet.mmu.ram cimport Extent as RamExtent
from ringlet.mmu.ram cimport GuestRam, ram_at, ram_left

cdef extern from *:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <fcntl.h>
    #include <errno.h>
    static inline int ringlet_punch(int fd, unsigned long long offset, unsigned long long size)
    {
        int done;
        do
            done = fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset,
                             (off_t)size);
        while (done != 0 && errno == EINTR);
        return done;
    }
    """
    int punch "ringlet_punch"(int fd, u64 offset, u64 size) noexcept nogil


cdef class Extent:
    """Consecutive guest RAM as a buffer, which keeps the owner of the RAM alive."""

    def __getbuffer__(self, Py_buffer* buffer, int flags):
        PyBuffer_FillInfo(buffer, self, self.start, self.size, 0, flags)


cdef extent_at(owner, GuestRam* ram, u64 address):
    cdef Extent extent = Extent.__new__(Extent)
    extent.owner = owner
    extent.start = ram_at(ram, address)
    extent.size = ram_left(ram, address)
    return memoryview(extent)


cdef GuestMemory guest_memory(object owner, GuestRam* ram):
    cdef GuestMemory memory = GuestMemory.__new__(GuestMemory)
    memory.owner = owner
    memory.ram = ram
    memory.low = extent_at(owner, ram, 0)
    memory.high = extent_at(owner, ram, <u64>1 << 32) if ram_left(ram, <u64>1 << 32) else None
    return memory


cdef class GuestMemory:
    """Guest physical memory; `Processor.guest_memory` makes one.

    Addresses are guest physical, sizes are bytes.  Any thread may call the methods.
    """

    cdef view_of(self, u64 address, u64 size):
        cdef u64 at
        if ram_left(self.ram, address) < size:
            return None
        if address < self.ram.low_end:
            return self.low[address:address + size]
        at = address - (<u64>1 << 32)
        return self.high[at:at + size]

    def view(self, u64 address, u64 size) -> memoryview:
        """Return a view of `size` bytes at `address`.  Raises ValueError if not all are RAM."""
        found = self.view_of(address, size)
        if found is None:
            raise ValueError(f"no RAM at guest physical {address:#x}, {size} bytes")
        return found

    def read(self, u64 address, u64 size) -> bytes:
        """Return a copy of `size` bytes at `address`.  Raises ValueError as `view` does."""
        return bytes(self.view(address, size))

    def has_code(self, u64 address, u64 size) -> bool:
        """Return whether a page of the range is a code page, after the caller has written there.

        If it is none, whatever is translated from now on is made from what was written: a page
        becomes a code page before its bytes are read.
        """
        return self.has_code_at(address, size)

    cdef bint has_code_at(self, u64 address, u64 size):
        cdef u64 page = address >> PAGE_SHIFT
        if not size or ram_left(self.ram, address) < size:
            return False
        host_fence()
        while page <= (address + size - 1) >> PAGE_SHIFT:
            if bit_test(self.ram.code, page):
                return True
            page += 1
        return False

    def discard(self, u64 address, u64 size) -> None:
        """Give whole pages back to the host: they take no memory and read as zeros.

        All mappings of guest RAM show that.  This is a write as any other: the caller drops what
        was translated from the pages.  Raises ValueError if not all are RAM or an end is not that
        of a page, OSError if the host refuses.
        """
        cdef u64 page = address >> PAGE_SHIFT, offset
        cdef RamExtent* e
        cdef u32 i
        cdef int done, fd
        if address & (PAGE_SIZE - 1) or size & (PAGE_SIZE - 1) or not size:
            raise ValueError(f"no whole pages at guest physical {address:#x}, {size} bytes")
        if ram_left(self.ram, address) < size:
            raise ValueError(f"no RAM at guest physical {address:#x}, {size} bytes")
        for i in range(self.ram.extent_count):
            e = &self.ram.extents[i]
            if e.frame <= page < e.frame + e.pages:
                offset = e.offset + ((page - e.frame) << PAGE_SHIFT)
                fd = e.fd
                with nogil:
                    done = punch(fd, offset, size)
                if done:
                    raise OSError(errno, f"cannot give guest RAM back: {strerror(errno).decode()}")
                return
