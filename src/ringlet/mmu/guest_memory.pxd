"""Guest physical memory for devices, whose threads access it while the guest runs."""
from ringlet.core.state cimport u8, u64
from ringlet.mmu.ram cimport GuestRam

cdef class Extent:
    cdef object owner
    cdef u8* start
    cdef Py_ssize_t size

cdef class GuestMemory:
    cdef object owner
    cdef GuestRam* ram
    cdef object low
    cdef object high

    cdef view_of(self, u64 address, u64 size)
    cdef bint has_code_at(self, u64 address, u64 size)


cdef GuestMemory guest_memory(object owner, GuestRam* ram)
