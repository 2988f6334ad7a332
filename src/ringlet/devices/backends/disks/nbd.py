"""The client's side of NBD, over one connection (NetworkBlockDevice/nbd, doc/proto.md).

The server is an engine of this machine, but it has read an image that may be hostile: each reply is
compared with the requests under way, and the first that fits none ends the connection.
"""

import contextlib
import errno
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from ringlet.devices.backends.disks.vectors import rest

WINDOW: Final = 16
"""The most requests that the server has at once: as many as QEMU's works on (nbd/server.c)."""
PAYLOAD: Final = 32 << 20
"""The most bytes of one READ or WRITE that every server takes (doc/proto.md, block sizes)."""
_OPTION: Final = struct.Struct(">8sII")
_OPTION_REPLY: Final = struct.Struct(">QIII")
_REQUEST: Final = struct.Struct(">IHHQQI")
_REPLY: Final = struct.Struct(">IIQ")
_EXPORT: Final = struct.Struct(">HQH")
_REQUEST_MAGIC: Final = 0x25609513
_REPLY_MAGIC: Final = 0x67446698
_OPTION_REPLY_MAGIC: Final = 0x3E889045565A9
_FIXED_NEWSTYLE: Final = 1
_NO_ZEROES: Final = 2
_OPT_GO: Final = 7
_REP_ACK: Final = 1
_REP_INFO: Final = 3
_INFO_EXPORT: Final = 0
_LONGEST_OPTION: Final = 1 << 16
_OPTIONS: Final = 16

READ: Final = 0
WRITE: Final = 1
_DISCONNECT: Final = 2
FLUSH: Final = 3
TRIM: Final = 4
WRITE_ZEROES: Final = 6
FUA: Final = 1
NO_HOLE: Final = 2

CAN_FLUSH: Final = 1 << 2
CAN_FUA: Final = 1 << 3
CAN_TRIM: Final = 1 << 5
CAN_WRITE_ZEROES: Final = 1 << 6

_ERRORS: Final = {1: errno.EPERM, 5: errno.EIO, 12: errno.ENOMEM, 22: errno.EINVAL,
                  28: errno.ENOSPC, 75: errno.EOVERFLOW, 95: errno.EOPNOTSUPP}  # fmt: skip


class ProtocolError(Exception):
    """The server sent what the protocol does not allow, or ended the connection."""


@dataclass(frozen=True, slots=True)
class Export:
    """What the server said of the disk: `size` in bytes, and what it can do (CAN_*)."""

    size: int
    flags: int


@dataclass(slots=True)
class Command:
    """One request to the server; `done` is called with 0 or an errno of this system."""

    kind: int
    flags: int
    offset: int
    length: int
    buffers: list[memoryview]
    done: Callable[[int], None]


def negotiate(connection: socket.socket) -> Export:
    """Choose the server's default export.  Raises ProtocolError or OSError."""
    magic, option_magic, flags = struct.unpack(">8s8sH", _take(connection, 18))
    if (magic, option_magic) != (b"NBDMAGIC", b"IHAVEOPT") or not flags & _FIXED_NEWSTYLE:
        raise ProtocolError("the server does not speak NBD's fixed newstyle protocol")
    connection.sendall(struct.pack(">I", _FIXED_NEWSTYLE | (flags & _NO_ZEROES)))
    connection.sendall(_OPTION.pack(b"IHAVEOPT", _OPT_GO, 6) + bytes(6))
    export = None
    for _ in range(_OPTIONS):
        magic, option, kind, length = _OPTION_REPLY.unpack(_take(connection, _OPTION_REPLY.size))
        if magic != _OPTION_REPLY_MAGIC or option != _OPT_GO or length > _LONGEST_OPTION:
            raise ProtocolError("a reply to an option is invalid")
        data = _take(connection, length)
        if kind == _REP_INFO and data[:2] == bytes(2) and length == _EXPORT.size:
            export = Export(*_EXPORT.unpack(data)[1:])
        elif kind == _REP_ACK and export is not None:
            return export
        elif kind != _REP_INFO:
            raise ProtocolError(f"the server refuses the export: {data[:200]!r}")
    raise ProtocolError("the server sent too many replies")


def _take(connection: socket.socket, length: int) -> bytes:
    data = bytearray(length)
    _fill(connection, [memoryview(data)])
    return bytes(data)


def _fill(connection: socket.socket, buffers: list[memoryview]) -> None:
    """Receive exactly what fills `buffers`."""
    buffers = rest(buffers, 0)  # without empty ones, for which there is nothing to wait
    while buffers:
        count, *_ = connection.recvmsg_into(buffers[:1024], 0, socket.MSG_WAITALL)
        if not count:
            raise ProtocolError("the connection has ended")
        buffers = rest(buffers, count)


class Client:
    """The requests under way on `connection`, which the client closes.

    `lost` is called once, with a reason, when the connection fails; by then all requests under way
    have been answered EIO, and all later ones are at once.
    """

    def __init__(self, connection: socket.socket, lost: Callable[[str], None], name: str) -> None:
        connection.settimeout(None)
        self._connection = connection
        self._lost = lost
        self._lock = threading.Lock()
        self._unsent: deque[Command] = deque()
        self._sent: dict[int, Command] = {}
        self._next_cookie = 1
        self._failed = False
        self._ending = False
        self._outgoing: deque[list[memoryview]] = deque()
        self._sending = False
        self._to_send = threading.Condition(self._lock)
        self._receiver = threading.Thread(target=self._receive, name=f"{name} in", daemon=True)
        self._sender = threading.Thread(target=self._send, name=f"{name} out", daemon=True)
        self._receiver.start()
        self._sender.start()

    def submit(self, command: Command) -> None:
        """Begin `command`, without waiting for the server."""
        with self._lock:
            failed = self._failed
            if not failed:
                self._unsent.append(command)
                self._advance()
        if failed:
            command.done(errno.EIO)

    def _advance(self) -> None:
        """Give the server as many requests as it may have.  The lock is held."""
        while self._unsent and len(self._sent) < WINDOW:
            command = self._unsent.popleft()
            cookie = self._next_cookie
            self._next_cookie += 1
            self._sent[cookie] = command
            head = _REQUEST.pack(
                _REQUEST_MAGIC, command.flags, command.kind, cookie, command.offset, command.length
            )
            message = [memoryview(head)]
            if command.kind == WRITE:
                message += command.buffers
            if self._sending or self._outgoing or (message := self._send_now(message)):
                self._outgoing.append(message)
                self._to_send.notify_all()

    def _send_now(self, message: list[memoryview]) -> list[memoryview]:
        """Send what the socket takes at once and return what is left."""
        try:
            count = self._connection.sendmsg(message[:1024], (), socket.MSG_DONTWAIT)
        except OSError:  # full; or ended, which the sender and the receiver find out
            return message
        return rest(message, count)

    def _send(self) -> None:
        """Send what the socket did not take at once: the sender's thread."""
        try:
            while True:
                with self._lock:
                    self._sending = False
                    self._to_send.wait_for(lambda: self._outgoing or self._failed or self._ending)
                    if self._failed or not self._outgoing:
                        return
                    message = self._outgoing.popleft()
                    self._sending = True
                while message:
                    message = rest(message, self._connection.sendmsg(message[:1024]))
        except OSError:
            self._hang_up()  # which ends the receiver, and that answers all requests

    def _receive(self) -> None:
        """Receive replies until the connection ends: the receiver's thread."""
        head = bytearray(_REPLY.size)
        view = [memoryview(head)]
        reason = ""
        try:
            while True:
                _fill(self._connection, view)
                magic, code, cookie = _REPLY.unpack(head)
                command = self._sent.get(cookie)
                if magic != _REPLY_MAGIC or command is None:
                    raise ProtocolError("a reply fits no request")
                if not code and command.kind == READ:
                    _fill(self._connection, command.buffers)
                with self._lock:
                    del self._sent[cookie]
                    self._advance()
                command.done(_ERRORS.get(code, errno.EIO) if code else 0)
        except (ProtocolError, OSError) as error:
            reason = str(error)
        finally:
            self._fail(reason or "a defect of Ringlet")

    def _fail(self, reason: str) -> None:
        """Answer all requests; neither thread touches their buffers any more."""
        with self._lock:
            self._failed = True
            left = [*self._sent.values(), *self._unsent]
            self._sent.clear()
            self._unsent.clear()
            self._outgoing.clear()
            self._to_send.notify_all()
            ending = self._ending and not left
        self._hang_up()
        self._sender.join()
        self._connection.close()
        if not ending:
            self._lost(reason)
        for command in left:
            command.done(errno.EIO)

    def _hang_up(self) -> None:
        with contextlib.suppress(OSError):  # the other side was first
            self._connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End the connection; no request may be under way."""
        with self._lock:
            self._ending = True
            self._to_send.notify_all()
        self._sender.join()
        with contextlib.suppress(OSError):  # the connection has failed before
            self._connection.sendall(_REQUEST.pack(_REQUEST_MAGIC, 0, _DISCONNECT, 0, 0, 0))
            self._connection.shutdown(socket.SHUT_WR)
        self._receiver.join()
