"""A guest that answers the host's requests as an agent would, nearly: `Liar`."""

import contextlib
import random
import socket
import stat
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass

from ringlet.control.agent.channel import WINDOW
from ringlet.guest.protocol import (
    END_OF_DIRECTORY,
    HEADER,
    HEADER_SIZE,
    INPUT_WINDOW,
    WORD,
    Entry,
    Kind,
    Operation,
    decode_hello,
    frame,
    hello,
)

IDLE = 0.05
"""Seconds without a frame of the host after which the guest ends."""
_NAMES = (b"a", b"b", b"b", b"c d", b"..", b".", b"x/y", b"", b"n" * 255, b"n" * 256, b"\xff\xfe",
          b"../secret", b"../../secret", b"secret")  # fmt: skip
_TARGETS = (b"", b"", b"", b"a", b"b/a", b"../secret", b"..", b"t" * 4095, b"t" * 5000)
_KINDS = (stat.S_IFREG,) * 4 + (stat.S_IFDIR,) * 2 + (
    stat.S_IFLNK, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK, 0, 0xF000)  # fmt: skip
_NUMBERS = (0, 1, 2, 3, 1 << 31, (1 << 32) - 1, 1 << 62, (1 << 64) - 1)
_TEXTS = (
    b"hostname=a\nuptime_ns=5\nboot_time_ns=9\n", b"uptime_ns=" + b"9" * 30, b"agent_pid=\xd9\xa1",
    b"=\n==\nhostname", b"\xff" * 100, b"", b"uptime_ns=-1\nagent_uid=1e5", b"a=b\n" * 5000,
)  # fmt: skip
_BY_OUTPUT = (Operation.READ, Operation.STAT, Operation.LIST, Operation.COPY_OUT)


@dataclass
class _Operation:
    """An operation that the host has asked for."""

    number: int
    kind: int
    credit: int = INPUT_WINDOW
    ended: bool = False


class Liar:
    """Answers at `stream` until the host is silent.  `lies` of its frames are not what they should.

    `secret` is a file of the host that it tries to reach.  The thread must be joined; it closes
    the stream.
    """

    def __init__(self, stream: socket.socket, chance: random.Random, secret: bytes) -> None:
        self._stream = stream
        self._names = (*_NAMES, secret)
        self._targets = (*_TARGETS, secret)
        self._chance = chance
        self._lies = chance.choice((0.0, 0.002, 0.02, 0.2))
        self._entry_lies = chance.choice((0.0, 0.0, 0.02, 0.3))
        self._operations: dict[int, _Operation] = {}
        self.answered = 0
        self.thread = threading.Thread(target=self._serve, name="liar", daemon=True)
        self.thread.start()

    def _serve(self) -> None:
        with self._stream, contextlib.suppress(OSError):
            self._stream.settimeout(IDLE)
            waiting = b""
            while part := self._stream.recv(1 << 18):
                waiting += part
                while len(waiting) >= HEADER_SIZE:
                    channel, word = HEADER.unpack_from(waiting)
                    end = HEADER_SIZE + (word & 0xFFFFFF)
                    if len(waiting) < end:
                        break
                    payload, waiting = waiting[HEADER_SIZE:end], waiting[end:]
                    for answer in self._answers(channel, word >> 24, payload):
                        self._stream.settimeout(10)
                        self._stream.sendall(self._changed(answer))
                        self._stream.settimeout(IDLE)
                        self.answered += 1

    def _changed(self, answer: bytes) -> bytes:
        """Return a frame, or what a liar makes of it."""
        chance = self._chance
        if chance.random() >= self._lies:
            return answer
        data = bytearray(answer)
        match chance.randrange(8):
            case 0:
                data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
            case 1:
                data[chance.randrange(HEADER_SIZE)] ^= 1 << chance.randrange(8)
            case 2:
                return b""
            case 3:
                return answer + answer
            case 4:
                return answer[: chance.randrange(len(answer))]
            case 5:
                return frame(*self._other(answer))
            case 6:
                return answer + frame(*self._other(answer))
            case _:
                return hello(bytes(8)) if chance.random() < 0.1 else answer
        return bytes(data)

    def _other(self, answer: bytes) -> tuple[int, Kind, bytes]:
        """Return another kind of frame for a channel that is open or was."""
        chance = self._chance
        channel = chance.choice((HEADER.unpack_from(answer)[0], *self._operations, 0))
        words = [chance.choice((*_NUMBERS[:6], INPUT_WINDOW, WINDOW, 9, 64)) for _ in range(3)]
        payload = chance.choice((
            b"", WORD.pack(words[0]), struct.pack("<II", words[0], words[1] % 9) + b"name",
            bytes(words[2] % 70_000),
        ))  # fmt: skip
        return channel, chance.choice(list(Kind)), payload

    # --- an agent

    def _answers(self, channel: int, kind: int, payload: bytes) -> Iterator[bytes]:
        if kind == Kind.HELLO:
            yield hello(decode_hello(payload)[0])
        elif kind == Kind.OPEN:
            operation = self._operations[channel] = _Operation(channel, payload[0])
            yield from self._begin(operation)
        elif (found := self._operations.get(channel)) is not None:
            yield from self._go_on(found, kind, payload)

    def _begin(self, operation: _Operation) -> Iterator[bytes]:
        chance, number = self._chance, operation.number
        if chance.random() < 0.05:
            yield self._error(operation)
        elif operation.kind == Operation.EXEC:
            yield frame(number, Kind.STARTED, WORD.pack(chance.choice((1, 77, (1 << 32) - 1))))
            for _ in range(chance.choice((0, 1, 5))):
                which = chance.choice((Kind.DATA_OUT, Kind.DATA_ERR))
                yield frame(number, which, chance.randbytes(chance.choice((1, 10, 9000))))
            if chance.random() < 0.3:
                yield from self._end(operation)
        elif operation.kind in _BY_OUTPUT:
            yield from self._output(operation, self._content(operation.kind))
            yield from self._end(operation)
        elif operation.kind in {Operation.INFO, Operation.TIME, Operation.POWER}:
            texts = (struct.pack("<QQ", chance.choice(_NUMBERS), 1), *_TEXTS)
            operation.ended = True
            yield frame(number, Kind.RESULT, chance.choice(texts))

    def _go_on(self, operation: _Operation, kind: int, payload: bytes) -> Iterator[bytes]:
        chance = self._chance
        if operation.ended:
            return
        if kind == Kind.DATA_IN and chance.random() < 0.9:
            yield frame(operation.number, Kind.CREDIT_IN, WORD.pack(len(payload)))
            if operation.kind == Operation.EXEC and len(payload) < WINDOW // 4:
                yield frame(operation.number, Kind.DATA_OUT, payload)
        elif kind == Kind.SIGNAL:
            yield from self._end(operation, -WORD.unpack(payload)[0])
        elif kind == Kind.END_IN and operation.kind not in _BY_OUTPUT:
            yield from self._end(operation)
        elif kind == Kind.END_OUT and chance.random() < 0.5:
            yield frame(operation.number, Kind.END_IN)

    def _output(self, operation: _Operation, content: bytes) -> Iterator[bytes]:
        """Give output in parts that may cut records anywhere, no more than the credit."""
        size = self._chance.choice((1, 50, 4096, 1 << 18, 1 << 18))
        size = max(size, len(content) // 200)
        content = content[:WINDOW]
        for at in range(0, len(content), size):
            yield frame(operation.number, Kind.DATA_OUT, content[at : at + size])

    def _end(self, operation: _Operation, code: int | None = None) -> Iterator[bytes]:
        chance, number = self._chance, operation.number
        if operation.kind != Operation.EXEC and chance.random() < 0.1:
            yield self._error(operation)
            return
        code = code if code is not None else chance.choice((0, 0, 0, 0, 1, 127, 255, -9, -64))
        code = code if operation.kind == Operation.EXEC else 0
        operation.ended = True
        tail = [frame(number, Kind.END_OUT), frame(number, Kind.END_ERR),
                frame(number, Kind.EXIT, struct.pack("<i", code))]  # fmt: skip
        chance.shuffle(tail)
        yield from tail[: 3 if chance.random() < 0.9 else 2]
        yield frame(number, Kind.CLOSED)

    def _error(self, operation: _Operation) -> bytes:
        operation.ended = True
        number, stage = self._chance.choice((1, 2, 13, 20, 4095)), self._chance.randrange(7)
        name = self._chance.choice((b"", b"name", b"\xff\0\n\x1b[", b"n" * 512))
        return frame(operation.number, Kind.ERROR, struct.pack("<II", number, stage) + name)

    # --- content

    def _content(self, kind: int) -> bytes:
        chance = self._chance
        if kind == Operation.READ:
            return chance.randbytes(chance.choice((0, 1, 5000, 300_000, WINDOW)))
        if kind == Operation.STAT:
            return b"".join(self._entry() for _ in range(chance.choice((1, 1, 1, 0, 2))))
        if kind == Operation.LIST:
            return b"".join(self._entry() for _ in range(chance.choice((0, 3, 50))))
        return self._tree()

    def _entry(self, *, lies: bool = True, kind: int | None = None) -> bytes:
        chance = self._chance
        kind = chance.choice(_KINDS[:8]) if kind is None else kind
        target = b"a" if kind == stat.S_IFLNK else b""
        name = chance.choice(_NAMES[:4])
        if lies and chance.random() < self._entry_lies:
            kind, name = chance.choice(_KINDS), chance.choice(self._names)
            target = chance.choice(self._targets)
        record = bytearray(Entry(
            name, kind | chance.choice((0o644, 0o755, 0o7777, 0)), links=chance.choice((1, 1, 2)),
            size=chance.choice(_NUMBERS), modified=chance.choice((0, 10**18, 10**9 * 2**33)),
            inode=chance.choice((1, 2, 3)), device=1, target=target,
        ).encode())  # fmt: skip
        if lies and chance.random() < self._entry_lies / 4:
            record[chance.randrange(64)] ^= 1 << chance.randrange(8)
        return bytes(record)

    def _tree(self) -> bytes:
        """Return a tree of a few files, or of many empty or deep ones."""
        chance = self._chance
        if chance.random() < 0.02:
            return self._entry(lies=False, kind=stat.S_IFDIR) * chance.choice((3, 210, 5000))
        parts = [self._entry(kind=stat.S_IFDIR)]
        depth = 1
        for _ in range(chance.choice((0, 3, 12, 40))):
            kind = chance.choice((stat.S_IFREG,) * 4 + (stat.S_IFDIR, stat.S_IFDIR, stat.S_IFLNK,
                                                        stat.S_IFIFO, None))  # fmt: skip
            if kind is None:
                if depth > 1:
                    parts.append(END_OF_DIRECTORY)
                    depth -= 1
                continue
            parts.append(self._entry(kind=kind))
            depth += kind == stat.S_IFDIR
            if kind == stat.S_IFREG:
                for size in chance.choice(((), (5,), (1, 4000), (100_000,))):
                    parts += [WORD.pack(size), bytes(size)]
                if chance.random() < self._entry_lies / 10:
                    parts.append(WORD.pack(chance.choice((1 << 31, (1 << 32) - 1))))
                parts.append(WORD.pack(0))
        if chance.random() < 0.95:
            parts += [END_OF_DIRECTORY] * depth
        if chance.random() < 0.03:
            parts.append(b"\1")
        return b"".join(parts)
