"""The data path of the network device: frames between a link of the host and the queues.

A link is a stream socket, on which each frame follows its length in four bytes, the most
significant first, as QEMU's `-netdev stream`; or a tap, of which each read or write is a frame with
the 12 bytes of virtio_net_hdr_v1 before it.  The descriptor does not block.

Frames wait in two buffers of this object: `inbox` for those that the guest has no room for, and
`outbox` for those that the link does not take yet.  While one of them waits nothing more is taken
from that side, so nothing grows.
"""
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.errno cimport EAGAIN, EINTR, ENOBUFS, errno
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memmove, memset, strerror
from posix.unistd cimport read, write

from ringlet.core.state cimport u8, u16, u32, u64
from ringlet.devices.virtio.queue cimport NONE, Buffer, Queue

cdef extern from "sys/socket.h" nogil:
    ssize_t send(int fd, const void* data, size_t size, int flags)
    int MSG_NOSIGNAL

cdef enum:
    HEADER = 12            # bytes of virtio_net_hdr_v1
    PREFIX = 4             # bytes of a frame's length on a stream
    BUFFERS_AT = 10        # offset of num_buffers
    DATA_VALID = 2         # of the header's flags: the checksum is right
    FRAME_MAX = 65550      # bytes of a frame: 64 KiB of IP with an Ethernet header
    INBOX = 1 << 18
    OUTBOX = 1 << 18
    SHOWN = 64             # bytes of a frame that `permits` is shown
    TURN = 64              # frames of one call, after which others have their turn

MAX_FRAME = FRAME_MAX

# What stopped a call.
DONE = 0          # nothing more to do
MORE = 1          # it is another's turn
NO_ROOM = 2       # the guest has given no buffers, or the link takes no more
CODE = 3          # the next chain has code: see `unpublished`
ENDED = 4         # the link is gone


from ringlet.devices.virtio.queue import QueueError


class LinkError(Exception):
    """The link sent what is no frame, or failed; the message says how."""


cdef class Frames:
    """Passes frames between descriptor `fd` and two queues; `tap` says what the descriptor is.

    With `mergeable`, a frame may use several chains of the receive queue.  If `permits` is given,
    frames of the guest are sent only if it returns True for their first bytes.  Only the device's
    thread calls the methods.
    """

    cdef int fd
    cdef bint tap
    cdef public bint mergeable
    cdef Queue rx
    cdef Queue tx
    cdef object permits
    cdef u8* inbox
    cdef u32 first, last        # of the bytes that wait in the inbox
    cdef u8* outbox
    cdef u32 out_first, out_last
    cdef u16 staged             # entries of the receive queue that are written and not published
    cdef list code              # ranges of guest memory whose translations are to be dropped
    cdef readonly u64 received, sent, received_bytes, sent_bytes, dropped

    def __cinit__(self, int fd, bint tap, Queue rx, Queue tx, permits=None):
        self.fd = fd
        self.tap = tap
        self.rx = rx
        self.tx = tx
        self.permits = permits
        self.inbox = <u8*>malloc(INBOX)
        self.outbox = <u8*>malloc(OUTBOX)
        self.code = []
        if self.inbox == NULL or self.outbox == NULL:
            raise MemoryError("a network device's buffers")

    def __dealloc__(self):
        free(self.inbox)
        free(self.outbox)

    def reset(self) -> None:
        """Forget what was prepared for the driver; a frame that is partly sent stays whole."""
        self.staged = 0
        self.code = []

    # --- from the link to the guest

    def receive(self) -> int:
        """Give frames of the link to the guest, and return what stopped this."""
        cdef int count = 0
        cdef u32 size
        cdef int result
        if self.code:
            return CODE
        while count < TURN:
            size = self.frame()
            if not size:
                result = self.fill()
                if result != MORE:
                    return result
                continue
            result = self.deliver(size)
            if self.code:
                return CODE  # also where the frame has to wait, or is lost
            if result != DONE:
                return result
            count += 1
        return MORE

    cdef u32 frame(self) except? 0xFFFFFFFF:
        """Bytes of the next frame if it is complete, without the length before it; 0: it is not."""
        cdef u8* at = self.inbox + self.first
        cdef u32 size
        if self.tap:
            return self.last - self.first
        if self.last - self.first < PREFIX:
            return 0
        size = <u32>at[0] << 24 | <u32>at[1] << 16 | <u32>at[2] << 8 | at[3]
        if not 0 < size <= FRAME_MAX:
            raise LinkError(f"a frame of {size} bytes")
        return size if self.last - self.first >= PREFIX + size else 0

    cdef int fill(self) except -1:
        """Read more into the inbox."""
        cdef ssize_t n
        if self.first:
            memmove(self.inbox, self.inbox + self.first, self.last - self.first)
            self.last -= self.first
            self.first = 0
        with nogil:
            n = read(self.fd, self.inbox + self.last, INBOX - self.last)
        if n > 0:
            self.last += <u32>n
            return MORE
        if n == 0:
            return ENDED
        if errno == EAGAIN:
            return DONE
        if errno == EINTR:
            return MORE
        raise LinkError(strerror(errno).decode())

    cdef int deliver(self, u32 size) except -1:
        """Give the next frame, of `size` bytes, to the guest."""
        cdef u8 header[HEADER]
        cdef u8* frame = self.inbox + self.first + (0 if self.tap else PREFIX)
        cdef u8* place = NULL
        cdef u16 taken = self.rx.taken
        cdef u32 left = size, at, done
        cdef int head
        cdef u16 used = 0
        if self.tap:
            if size < HEADER:
                raise LinkError(f"a frame of {size} bytes")
            memcpy(header, frame, HEADER)
            frame += HEADER
            left -= HEADER
        else:
            memset(header, 0, HEADER)
            header[0] = DATA_VALID
        while True:
            head = self.rx.take_next()
            if head == NONE:
                # What was taken for this frame is taken again with the next buffers.
                self.rx.taken = taken
                return NO_ROOM
            done = self.fill_chain(header if not used else NULL, &frame, &left, &place)
            self.rx.put(used, <u16>head, done)
            used += 1
            if not left:
                break
            if not self.mergeable or used == self.rx.size:
                # The frame is longer than the driver can take: it is lost.
                self.rx.taken = taken
                self.consume(size)
                self.dropped += 1
                return DONE
        place[0] = <u8>used
        place[1] = <u8>(used >> 8)
        self.consume(size)
        self.received += 1
        self.received_bytes += size
        self.staged = used
        if not self.code:
            self.publish()
        return DONE

    cdef u32 fill_chain(self, const u8* header, u8** frame, u32* left, u8** place) except? 0:
        """Fill the chain that was taken last, beginning with `header` if there is one; return how
        many bytes were written.  `place` becomes where num_buffers of the header is."""
        cdef Buffer* b
        cdef u32 i, at, part, done = 0
        for i in range(self.rx.count):
            b = &self.rx.buffers[i]
            if not b.writable:
                continue
            at = 0
            if header != NULL:
                if b.size < HEADER:
                    raise QueueError("a receive buffer without room for a header")
                memcpy(b.host, header, HEADER)
                place[0] = b.host + BUFFERS_AT
                header = NULL
                at = HEADER
            part = min(left[0], b.size - at)
            memcpy(b.host + at, frame[0], part)
            frame[0] += part
            left[0] -= part
            done += at + part
            if self.rx.memory.has_code_at(b.address, at + part):
                self.code.append((b.address, at + part))
            if not left[0]:
                break
        if not done:
            raise QueueError("a receive buffer that cannot be written")
        return done

    cdef void consume(self, u32 size) noexcept:
        self.first += size if self.tap else PREFIX + size
        if self.first == self.last:
            self.first = self.last = 0

    def unpublished(self) -> list[tuple[int, int]]:
        """Return the ranges of guest memory that were written and hold code.

        Their translations must be dropped before `publish`.
        """
        return self.code

    def publish(self) -> None:
        """Let the driver see what was prepared."""
        self.code = []
        if self.staged and self.rx.enabled:
            self.rx.publish(self.staged)
        self.staged = 0

    # --- from the guest to the link

    def transmit(self) -> int:
        """Give frames of the guest to the link, and return what stopped this."""
        cdef int count = 0
        cdef int head
        while count < TURN:
            while OUTBOX - self.out_last >= PREFIX + FRAME_MAX + HEADER and count < TURN:
                if self.tap and self.out_last:
                    break  # what waits is a frame, and each write is one
                head = self.tx.take_next()
                if head == NONE:
                    break
                self.load()
                self.tx.put(0, <u16>head, 0)
                self.tx.publish(1)
                count += 1
            if self.out_first == self.out_last:
                return DONE
            if not self.flush():
                return NO_ROOM
        return MORE

    cdef int load(self) except -1:
        """Put the frame of the chain that was taken last into the outbox."""
        cdef u32 begin = self.out_last + (0 if self.tap else PREFIX)
        cdef u32 at = begin, skip = 0 if self.tap else HEADER
        cdef u32 i, part, size
        cdef Buffer* b
        for i in range(self.tx.count):
            b = &self.tx.buffers[i]
            if b.writable:
                break
            part = min(skip, b.size)
            skip -= part
            size = b.size - part
            if at - begin + size > FRAME_MAX + HEADER:
                self.dropped += 1
                return 0
            memcpy(self.outbox + at, b.host + part, size)
            at += size
        size = at - begin
        if skip or size < (HEADER if self.tap else 1) or (not self.tap and size > FRAME_MAX):
            self.dropped += 1
            return 0
        if self.permits is not None and not self.permits(
                PyBytes_FromStringAndSize(<char*>self.outbox + begin, min(size, <u32>SHOWN))):
            self.dropped += 1
            return 0
        if not self.tap:
            self.outbox[begin - 4] = <u8>(size >> 24)
            self.outbox[begin - 3] = <u8>(size >> 16)
            self.outbox[begin - 2] = <u8>(size >> 8)
            self.outbox[begin - 1] = <u8>size
        self.out_last = at
        self.sent += 1
        self.sent_bytes += size
        return 0

    cdef bint flush(self) except -1:
        """Send what is in the outbox; False: the link takes no more now."""
        cdef ssize_t n
        while self.out_first < self.out_last:
            with nogil:
                if self.tap:
                    n = write(self.fd, self.outbox + self.out_first,
                              self.out_last - self.out_first)
                else:
                    n = send(self.fd, self.outbox + self.out_first,
                             self.out_last - self.out_first, MSG_NOSIGNAL)
            if n >= 0:
                self.out_first += <u32>n
            elif errno == EAGAIN or errno == ENOBUFS:
                return False
            elif errno != EINTR:
                if not self.tap:
                    raise LinkError(strerror(errno).decode())
                # The host refuses this frame: the guest's header may say what is impossible.
                self.dropped += 1
                break
        self.out_first = self.out_last = 0
        return True

    @property
    def waits_to_send(self) -> bool:
        """Whether the link has to become writable before more can be sent."""
        return self.out_first < self.out_last
