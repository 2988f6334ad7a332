"""What a disk does for a block device: requests in, an errno out."""

import enum
import errno
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

SECTOR: Final = 512
IDENTITY_BYTES: Final = 20
"""The most bytes of a serial number (virtio 1.2, 5.2.6: VIRTIO_BLK_T_GET_ID)."""
PENDING: Final = 4096
"""The most requests of one disk that may be under way; a further one is answered EBUSY."""
ROOM_SECONDS: Final = 60.0
"""How long a guest's writes are tried again when the host's file system is full.  Linux complains
about tasks that wait for 120 s."""
DROPPED: Final = errno.ECANCELED
"""The errno of a request whose session was over before all of it was done."""

Trouble = Callable[[str], None]
"""Tells the user something about a disk in one line, from any thread."""


class Operation(enum.Enum):
    """What a request asks for."""

    READ = "read"
    WRITE = "write"
    FLUSH = "flush"
    """Make durable all writes whose `done` was called before this request was submitted."""
    DISCARD = "discard"
    """The bytes are no longer needed; what they read as afterwards is undefined."""
    WRITE_ZEROES = "write zeroes"


@dataclass(slots=True, eq=False)
class Session:
    """The time until a driver resets its device, or its run ends.

    Once it is `over`, nobody reads the answers to its requests: a disk drops those that have not
    begun, and long ones soon (DROPPED).  None of them has been acknowledged, as at a power cut.
    """

    over: bool = False


ENDLESS: Final = Session()
"""The session of requests that are all to be performed."""


@dataclass(slots=True)
class Request:
    """One request to a disk.

    `offset` and `length` count bytes.  `buffers` are parts of guest RAM, `length` bytes together:
    a READ fills them, a WRITE takes its data from them, the other operations have none.  They
    belong to the disk until it calls `done`, exactly once, from any thread, with 0 or an errno.
    With `unmap` a WRITE_ZEROES may give room back to the host; with `fua` a WRITE is durable
    when it is done.  A request that is `alone` is the only one of its disk, and none is about to
    follow: the thread that submits it has nothing else to do.  It may be dropped when its `session`
    is over.  With `later`, the disk may give that a call which waits for the host: who submits it
    makes such calls in their order, once he has nothing to submit.
    """

    operation: Operation
    offset: int
    length: int
    buffers: list[memoryview]
    done: Callable[[int], None]
    unmap: bool = False
    fua: bool = False
    alone: bool = False
    session: Session = ENDLESS
    later: Callable[[Callable[[], None]], None] | None = None


class Disk(Protocol):
    """A disk of the host.

    `size` is in bytes and a multiple of `sector`, the logical block size.  `discards` says whether
    DISCARD gives room back to the host.  `identity` is a serial number of at most 20 ASCII bytes.
    """

    size: int
    read_only: bool
    sector: int
    discards: bool
    identity: str

    def submit(self, request: Request) -> None:
        """Begin `request`; any thread may call this.

        This call waits for no device, except for a short request that is `alone`: at most it
        copies data from or to the host's page cache.  What can be done in that way is done at
        once, so `done` may be called before this returns.
        Requests run concurrently and finish in any order.
        """

    def close(self) -> None:
        """Wait for the requests that run, flush, and release files and locks.

        Requests that are submitted later are answered ESHUTDOWN.
        """


def refusal(request: Request, size: int, read_only: bool) -> int:
    """Return the errno of a request that a disk of `size` bytes cannot perform, or 0.

    The device checks what the guest wrote; this is the second line of defence.
    """
    if request.operation is Operation.FLUSH:
        return 0
    if request.offset < 0 or request.length < 0 or request.offset + request.length > size:
        return errno.EINVAL
    if request.operation is Operation.READ:
        return _compare(request)
    if read_only:
        return errno.EROFS
    return _compare(request) if request.operation is Operation.WRITE else 0


def _compare(request: Request) -> int:
    given = 0
    for buffer in request.buffers:
        given += buffer.nbytes
    return 0 if given == request.length else errno.EINVAL
