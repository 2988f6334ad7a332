"""One stream of the socket device: a socket of the host, and the credit of both sides.

See virtio 1.2, 5.10.6.3.  Each side tells how large its buffer is (`alloc`) and how much it has
passed on (`forwarded`), so the other side knows how much it may send.
"""

import select
import socket
import time
from collections.abc import Callable
from enum import Enum
from typing import Final

from ringlet.devices.virtio.buffers import skip
from ringlet.devices.virtio.vsock_packets import (
    COUNTER,
    SHUTDOWN_BOTH,
    SHUTDOWN_RECEIVE,
    SHUTDOWN_SEND,
    Header,
    Op,
)

BUFFER: Final = 262144
"""Bytes from the guest that the host has not taken yet, of one connection."""
LONGEST_CALL_S: Final = 60.0
"""Seconds that the guest has to answer a call, if a further stream needs the place."""
_TELL: Final = BUFFER // 2
"""The guest is told of room when so many bytes were passed on since the last packet."""


class Phase(Enum):
    """How far a connection is."""

    CALLING = "the host has asked for it"
    OPEN = "both sides may send"
    LEFT = "it is over for the guest; the host still has to take what was sent"


class Connection:
    """A stream between `guest_port` and `host_port`.

    `answered` is called once, in phase CALLING: with the host's port, or 0 if the guest refuses.
    """

    def __init__(
        self,
        host_port: int,
        guest_port: int,
        sock: socket.socket,
        answered: Callable[[int], None] | None = None,
    ) -> None:
        self.host_port = host_port
        self.guest_port = guest_port
        self.sock = sock
        self.answered = answered
        self.phase = Phase.CALLING if answered is not None else Phase.OPEN
        self._began = time.monotonic()
        self.owed: list[Op] = []  # packets for the guest that wait for its buffers
        self.shutdown = 0  # flags that the host has sent
        self.guest_shutdown = 0
        self._buffer = bytearray()
        self.forwarded = 0
        self._told = 0  # `forwarded` in the last packet
        self._sent = 0
        self._peer_alloc = 0
        self._peer_forwarded = 0

    @property
    def waits_too_long(self) -> bool:
        """Return whether the guest has not answered this call in LONGEST_CALL_S."""
        return (
            self.phase is Phase.CALLING and time.monotonic() - self._began > LONGEST_CALL_S
        )

    # --- from host to guest

    @property
    def credit(self) -> int:
        """How many bytes the guest has room for, as it says."""
        return max(0, self._peer_alloc - (self._sent - self._peer_forwarded & COUNTER))

    def hear(self, header: Header) -> None:
        """Note the guest's credit."""
        self._peer_alloc = header.alloc
        self._peer_forwarded = header.forwarded

    def count_sent(self, size: int) -> None:
        """Note that `size` bytes were sent to the guest."""
        self._sent = self._sent + size & COUNTER

    def closed_by_host(self) -> bool:
        """Return whether the host has closed its end, and not only ended what it sends."""
        poll = select.poll()
        poll.register(self.sock, 0)
        return bool(poll.poll(0))

    def header(self, guest_cid: int, host_cid: int, op: Op, size: int = 0) -> bytes:
        """Return the header of a packet to the guest, which tells it all credit there is."""
        self._told = self.forwarded
        flags = self.shutdown if op is Op.SHUTDOWN else 0
        return Header(
            host_cid, guest_cid, self.host_port, self.guest_port, size, 1, op, flags, BUFFER,
            self.forwarded,
        ).pack()  # fmt: skip

    # --- from guest to host

    @property
    def buffered(self) -> int:
        """How many bytes the host has not taken yet."""
        return len(self._buffer)

    def put(self, views: list[memoryview], size: int) -> bool:
        """Pass `size` bytes, those of `views`, to the host; keep a copy of what it does not take.

        Returns False if the guest had no credit for them.  Raises OSError if the host's end is
        closed.
        """
        if self.buffered + size > BUFFER:
            return False
        done = 0
        if not self._buffer and size:
            try:
                done = self.sock.sendmsg(views, [], socket.MSG_NOSIGNAL)
            except BlockingIOError:
                done = 0
            self.forwarded = self.forwarded + done & COUNTER
        for view in skip(views, done):
            self._buffer += view
        return True

    def flush(self) -> bool:
        """Pass on what is buffered; return whether all is.  Raises OSError as `put` does."""
        while self._buffer:
            try:
                done = self.sock.send(self._buffer, socket.MSG_NOSIGNAL)
            except BlockingIOError:
                return False
            self.forwarded = self.forwarded + done & COUNTER
            del self._buffer[:done]  # moves nothing: a bytearray remembers where it begins
        return True

    @property
    def tells_room(self) -> bool:
        """Return whether the guest should hear of the room that has come free."""
        return (self.forwarded - self._told & COUNTER) >= _TELL

    def apply_shutdown(self) -> None:
        """Pass the guest's shutdown on to the host, once everything before it is passed on."""
        if self.guest_shutdown & SHUTDOWN_RECEIVE:
            self._shut(socket.SHUT_RD)
        if self.guest_shutdown & SHUTDOWN_SEND and not self.buffered:
            self._shut(socket.SHUT_WR)

    @property
    def over(self) -> bool:
        """Return whether the guest neither sends nor receives, and the host has all it sent."""
        return self.guest_shutdown == SHUTDOWN_BOTH and not self.buffered

    def _shut(self, how: int) -> None:
        try:
            self.sock.shutdown(how)
        except OSError:
            return  # the host's end is closed: reading or writing will tell
