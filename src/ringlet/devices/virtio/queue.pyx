"""A split virtqueue as the device uses it (virtio 1.2, 2.7), over memory that the guest writes.

The driver is not trusted.  What it wrote is read once and checked: every index, length and address
of a chain, so that a chain that was taken lies in guest RAM, has at most `CHAIN_MAX` buffers, and
does not change afterwards.  A fault of the driver raises QueueError, after which the device asks
for a reset.

All methods hold the GIL, which is the lock of a queue: one thread takes chains and others may give
them back.
"""
from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc

from ringlet.core.host cimport host_fence
from ringlet.core.state cimport u8, u16, u32, u64
from ringlet.mmu.guest_memory cimport GuestMemory
from ringlet.mmu.ram cimport ram_at, ram_left

cdef extern from *:
    """
    #include <stdint.h>
    struct ringlet_descriptor { uint64_t address; uint32_t length; uint16_t flags, next; };
    static inline void ringlet_take(struct ringlet_descriptor *to, const void *from)
    {
        const volatile uint64_t *words = (const volatile uint64_t *)from;
        uint64_t rest = words[1];
        to->address = words[0];
        to->length = (uint32_t)rest;
        to->flags = (uint16_t)(rest >> 32);
        to->next = (uint16_t)(rest >> 48);
    }
    static inline uint16_t ringlet_load16(const void *p)
    { return __atomic_load_n((const uint16_t *)p, __ATOMIC_ACQUIRE); }
    static inline void ringlet_store16(void *p, uint16_t value)
    { __atomic_store_n((uint16_t *)p, value, __ATOMIC_RELEASE); }
    static inline void ringlet_put32(void *p, uint32_t value)
    { *(volatile uint32_t *)p = value; }
    """
    ctypedef struct Descriptor "struct ringlet_descriptor":
        uint64_t address
        uint32_t length
        uint16_t flags
        uint16_t next
    void take "ringlet_take"(Descriptor* to, const void* source) noexcept nogil
    u16 load16 "ringlet_load16"(const void* p) noexcept nogil
    void store16 "ringlet_store16"(void* p, u16 value) noexcept nogil
    void put32 "ringlet_put32"(void* p, u32 value) noexcept nogil

# Names of virtio 1.2, 2.7.5 to 2.7.8.
cdef enum:
    DESC_F_NEXT = 1
    DESC_F_WRITE = 2
    DESC_F_INDIRECT = 4
    AVAIL_F_NO_INTERRUPT = 1
    USED_F_NO_NOTIFY = 1
    DESCRIPTOR_SIZE = 16
    SIZE_MAX = 1024        # entries of a queue
    CHAIN_MAX = 1024       # buffers of a chain
    BYTES_MAX = 1 << 30    # all buffers of a chain together

MAX_SIZE = SIZE_MAX
MAX_CHAIN = CHAIN_MAX
MAX_BYTES = BYTES_MAX


cdef bint overlap(u64 a, u64 a_size, u64 b, u64 b_size) noexcept:
    return a < b + b_size and b < a + a_size


class QueueError(Exception):
    """The driver broke a rule of the queue; the message says which."""


cdef class Chain:
    """A chain of buffers: views of guest RAM, those that the device reads and those it writes.

    The driver may change the bytes of readable buffers at any time.
    """

    @property
    def places(self) -> list[tuple[int, int]]:
        """Guest physical addresses and sizes of the writable buffers."""
        return [(address, len(view)) for address, view in zip(self.addresses, self.writable)]


cdef class Queue:
    """One queue of a device; `size` is the number of its entries, at most `limit`.

    The addresses are guest physical; `enable` checks them.
    """

    def __cinit__(self, GuestMemory memory, int index, int limit):
        if not 0 < limit <= SIZE_MAX or limit & (limit - 1):
            raise ValueError(f"a queue of {limit} entries: give a power of two up to {SIZE_MAX}")
        self.memory = memory
        self.index = index
        self.limit = limit
        self.buffers = <Buffer*>malloc(CHAIN_MAX * sizeof(Buffer))
        if self.buffers == NULL:
            raise MemoryError("a queue's buffers")
        self.reset()

    def __dealloc__(self):
        free(self.buffers)

    def reset(self) -> None:
        """Return to the state before the driver set up the queue."""
        self.size = self.limit
        self.descriptors = self.available = self.used = 0
        self.enabled = self.event_index = self.indirect = False
        self.taken = self.given = 0
        self.signalled_valid = self.pushed = False
        self.table = self.avail = self.done = NULL

    def enable(self) -> None:
        """Begin to use the queue.  Raises QueueError if its size or an address is wrong."""
        cdef u32 size = <u32>self.size
        if not 0 < self.size <= self.limit or size & (size - 1):
            raise QueueError(f"{self.size} entries")
        self.table = self.place(self.descriptors, DESCRIPTOR_SIZE * size, 16)
        self.avail = self.place(self.available, 6 + 2 * size, 2)
        self.done = self.place(self.used, 6 + 8 * size, 4)
        if (overlap(self.descriptors, DESCRIPTOR_SIZE * size, self.available, 6 + 2 * size)
                or overlap(self.descriptors, DESCRIPTOR_SIZE * size, self.used, 6 + 8 * size)
                or overlap(self.available, 6 + 2 * size, self.used, 6 + 8 * size)):
            raise QueueError("rings that overlap")
        self.enabled = True

    cdef u8* place(self, u64 address, u32 size, u32 alignment) except NULL:
        if address & (alignment - 1) or ram_left(self.memory.ram, address) < size:
            raise QueueError(f"a ring at guest physical {address:#x}")
        return ram_at(self.memory.ram, address)

    # --- chains

    def pop(self) -> Chain | None:
        """Take the next chain that the driver has made available; None: there is none.

        Raises QueueError.
        """
        cdef Chain chain
        cdef Buffer* b
        cdef u32 i
        cdef int head = self.take_next()
        if head == NONE:
            return None
        chain = Chain.__new__(Chain)
        chain.head = <u16>head
        chain.readable = []
        chain.writable = []
        chain.addresses = []
        for i in range(self.count):
            b = &self.buffers[i]
            view = self.memory.view_of(b.address, b.size)
            if b.writable:
                chain.writable.append(view)
                chain.addresses.append(b.address)
                chain.writable_size += b.size
            else:
                chain.readable.append(view)
                chain.readable_size += b.size
        return chain

    cdef int take_next(self) except -1:
        """Take the next chain, whose buffers are then `buffers`; return its head, or NONE."""
        cdef u16 available, head
        if not self.enabled:
            return NONE
        available = load16(self.avail + 2)
        self.looked = available
        if available == self.taken:
            return NONE
        if <u16>(available - self.taken) > self.size:
            raise QueueError("more chains are available than the queue has entries")
        if <u16>(self.taken - self.given) >= self.size:
            raise QueueError("more chains are under way than the queue has entries")
        head = load16(self.avail + 4 + 2 * (self.taken & (self.size - 1)))
        if head >= self.size:
            raise QueueError(f"descriptor {head} of {self.size}")
        self.collect(head)
        self.taken += 1
        self.n_chains += 1
        return head

    cdef int collect(self, u16 head) except -1:
        cdef Descriptor d
        cdef u8* table = self.table
        cdef u32 entries = <u32>self.size
        cdef u32 at = head
        cdef u64 total = 0
        cdef bint nested = False
        self.count = 0
        while True:
            take(&d, table + DESCRIPTOR_SIZE * at)
            if d.flags & DESC_F_INDIRECT:
                if not self.indirect or nested or d.flags & DESC_F_NEXT:
                    raise QueueError("an indirect table where none may be")
                entries = d.length // DESCRIPTOR_SIZE
                if d.length % DESCRIPTOR_SIZE or not 0 < entries <= CHAIN_MAX:
                    raise QueueError(f"an indirect table of {d.length} bytes")
                if ram_left(self.memory.ram, d.address) < d.length:
                    raise QueueError(f"an indirect table at guest physical {d.address:#x}")
                table = ram_at(self.memory.ram, d.address)
                nested = True
                at = 0
                continue
            total += d.length
            if self.count == CHAIN_MAX or total > BYTES_MAX:
                raise QueueError("a chain that is too long, or does not end")
            self.add(d.address, d.length, d.flags & DESC_F_WRITE)
            if not d.flags & DESC_F_NEXT:
                return 0
            at = d.next
            if at >= entries:
                raise QueueError(f"descriptor {at} of {entries}")

    cdef int add(self, u64 address, u32 size, bint writable) except -1:
        cdef Buffer* b = &self.buffers[self.count]
        if not size or ram_left(self.memory.ram, address) < size:
            raise QueueError(f"a buffer of {size} bytes at guest physical {address:#x}")
        if not writable and self.count and self.buffers[self.count - 1].writable:
            raise QueueError("a readable buffer after a writable one")
        b.host = ram_at(self.memory.ram, address)
        b.address = address
        b.size = size
        b.writable = writable
        self.count += 1
        return 0

    @property
    def has_more(self) -> bool:
        """Whether the driver has made a chain available that was not taken."""
        return self.enabled and load16(self.avail + 2) != self.taken

    def code_written(self, Chain chain, u64 written) -> list[tuple[int, int]]:
        """Return those of the first `written` bytes of the writable buffers that are in code pages.

        Each item is a guest physical address and a size.  Call this after the bytes are written
        and before `push`.
        """
        cdef u64 left = written, size
        found = []
        for place, view in zip(chain.addresses, chain.writable):
            if not left:
                break
            size = min(left, <u64>len(view))
            if self.memory.has_code(place, size):
                found.append((place, size))
            left -= size
        return found

    def push(self, Chain chain, u64 written) -> None:
        """Give `chain` back, with the number of bytes that were written to its buffers."""
        if self.enabled:
            self.put(0, chain.head, <u32>min(written, chain.writable_size))
            self.publish(1)

    cdef void put(self, u16 ahead, u16 head, u32 written) noexcept:
        """Write an entry of the used ring, `ahead` entries after the next one."""
        cdef u8* entry = self.done + 4 + 8 * (<u16>(self.given + ahead) & (self.size - 1))
        put32(entry, head)
        put32(entry + 4, written)

    cdef void publish(self, u16 entries) noexcept:
        """Let the driver see the next entries of the used ring."""
        self.given += entries
        self.pushed = True
        store16(self.done + 2, self.given)

    # --- notifications

    def arm(self) -> bool:
        """Ask the driver to notify the device of the next chain; True: there is one already."""
        if not self.enabled:
            return False
        if self.event_index:
            store16(self.done + 4 + 8 * self.size, self.taken)
        else:
            store16(self.done, 0)
        host_fence()
        return load16(self.avail + 2) != self.taken

    def arm_beyond(self) -> bool:
        """As `arm`, where the chains that were there when one was last looked for do not suffice.

        True: there are more now.
        """
        if not self.enabled:
            return False
        if self.event_index:
            store16(self.done + 4 + 8 * self.size, self.looked)
        else:
            store16(self.done, 0)
        host_fence()
        return load16(self.avail + 2) != self.looked

    def disarm(self) -> None:
        """Tell the driver that the device looks for chains by itself."""
        if self.enabled and not self.event_index:
            store16(self.done, USED_F_NO_NOTIFY)

    def wants_interrupt(self) -> bool:
        """Return whether the driver wants an interrupt for what was pushed since the last call."""
        cdef u16 event, before = self.signalled
        cdef bint valid = self.signalled_valid
        if not self.enabled or not self.pushed:
            return False
        self.pushed = False
        host_fence()
        self.signalled = self.given
        self.signalled_valid = True
        if not self.event_index:
            return not load16(self.avail) & AVAIL_F_NO_INTERRUPT
        event = load16(self.avail + 4 + 2 * self.size)
        return not valid or <u16>(self.given - event - 1) < <u16>(self.given - before)
