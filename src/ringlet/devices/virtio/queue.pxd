"""A split virtqueue as the device uses it; compiled devices use its buffers without views."""
from ringlet.core.state cimport u8, u16, u32, u64
from ringlet.mmu.guest_memory cimport GuestMemory

cdef enum:
    NONE = 0x10000         # no chain: not the number of a descriptor

cdef struct Buffer:
    u8* host           # where the buffer is for the host
    u64 address        # guest physical
    u32 size
    bint writable

cdef class Chain:
    cdef readonly u16 head
    cdef readonly list readable
    cdef readonly list writable
    cdef readonly u64 readable_size
    cdef readonly u64 writable_size
    cdef list addresses   # guest physical, of the writable buffers

cdef class Queue:
    cdef readonly int index
    cdef readonly int limit
    cdef public int size
    cdef public u64 descriptors
    cdef public u64 available
    cdef public u64 used
    cdef readonly bint enabled
    cdef public bint event_index     # VIRTIO_F_EVENT_IDX was negotiated
    cdef public bint indirect        # VIRTIO_F_INDIRECT_DESC was negotiated
    cdef public u16 taken            # index of the next entry of the available ring
    cdef public u16 given            # index of the next entry of the used ring
    cdef readonly u64 n_chains       # chains taken
    cdef u16 signalled               # `given` when the driver was last interrupted
    cdef bint signalled_valid
    cdef bint pushed         # since `wants_interrupt` was called
    cdef GuestMemory memory
    cdef u8* table
    cdef u8* avail
    cdef u8* done
    cdef Buffer* buffers     # of the chain that was taken last
    cdef u32 count           # how many they are
    cdef u16 looked          # index of the available ring when a chain was last looked for

    cdef u8* place(self, u64 address, u32 size, u32 alignment) except NULL
    cdef int take_next(self) except -1
    cdef int collect(self, u16 head) except -1
    cdef int add(self, u64 address, u32 size, bint writable) except -1
    cdef void put(self, u16 ahead, u16 head, u32 written) noexcept
    cdef void publish(self, u16 entries) noexcept
