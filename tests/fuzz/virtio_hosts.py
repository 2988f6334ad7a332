"""The hosts of the network and file system devices that are fuzzed, and their drivers' messages."""
from __future__ import annotations

import contextlib
import fcntl
import os
import random
import shutil
import struct
import tempfile
from pathlib import Path

from ringlet.devices.backends.network.link import Framing
from ringlet.devices.backends.shares import FileServer
from ringlet.devices.backends.shares import protocol as fuse
from ringlet.devices.virtio.frames import MAX_FRAME
from tests.fuzz.shares import Maker
from tests.unit.devices.virtio.fake_link import FakeLink

SECRET = b"of the host"
_FILE_MAX = 1 << 20
_HEADER = 12
_PREFIX = 4
_READS = 20
_LENGTHS = (0, 1, 13, 14, 60, 60, 1514, 1514, 9000, 65_000, 65_549, 65_550, 65_551)


class FuzzLink(FakeLink):
    """A link whose other end plays a network, and reads what is sent to it as frames.

    Raises ValueError if it is none.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self._left = 0  # bytes of a frame that are still to come
        self._prefix = b""
        self.whole = True
        """Whether the network is there and has sent nothing but whole and right frames."""

    def _read(self, size: int) -> None:
        """Read up to `size` bytes, or a frame of a tap, and check it."""
        data = self.peer.recv(1 << 18 if self.framing is Framing.TAP else size)
        if self.framing is Framing.TAP:
            if not _HEADER <= len(data) <= MAX_FRAME + _HEADER:
                raise ValueError(f"a tap gets {len(data)} bytes")
            return
        while data:
            taken = data[: self._left]
            data, self._left = data[len(taken) :], self._left - len(taken)
            if self._left or not data:
                return
            need = _PREFIX - len(self._prefix)
            self._prefix, data = self._prefix + data[:need], data[need:]
            if len(self._prefix) == _PREFIX:
                self._left, self._prefix = int.from_bytes(self._prefix, "big"), b""
                if not 0 < self._left <= MAX_FRAME:
                    raise ValueError(f"a link gets a frame of {self._left} bytes")

    def act(self, rng: random.Random) -> None:
        """Let the network send, right or wrong, or read, or leave."""
        what = rng.randrange(40)
        with contextlib.suppress(OSError):
            if what < 20:
                for _ in range(rng.choice((1, 1, 3, 80))):
                    frame = self._frame(rng)
                    right = self.whole
                    sent = self.peer.send(frame)
                    self.whole = right and sent == len(frame)
            elif what < 38:
                for _ in range(rng.choice((1, 1, 100))):
                    self._read(1 << rng.randrange(4, 18))
            elif rng.random() < 0.1:
                self.whole = False
                self.peer.close()
            elif self.framing is Framing.STREAM:
                self.whole = False
                self.peer.send(rng.randbytes(rng.choice((1, 3, 4, 100))))

    def send_one(self) -> None:
        """Send a frame; if there is no room, others wait already."""
        data = bytes(64)
        with contextlib.suppress(OSError):
            if self.framing is Framing.TAP:
                self.peer.send(bytes(_HEADER) + data)
            else:
                self.peer.send(struct.pack(">I", len(data)) + data)

    def take_all(self) -> None:
        """Read what the device sends: while that waits, the device takes no chains."""
        with contextlib.suppress(OSError):
            for _ in range(_READS):
                self._read(1 << 18)

    def _frame(self, rng: random.Random) -> bytes:
        size = rng.choice(_LENGTHS)
        data = rng.randbytes(min(size, 14)) + bytes(max(size - 14, 0))
        if self.framing is Framing.TAP:
            return (rng.randbytes(_HEADER) if rng.random() < 0.5 else bytes(_HEADER)) + data
        if size > MAX_FRAME or not size:
            self.whole = False
        if rng.random() < 0.01:
            self.whole = False
            size = rng.choice((0, 65_551, 1 << 31, (1 << 32) - 1))
        return struct.pack(">I", size) + data


def packet(rng: random.Random) -> bytes:
    """Return what a driver hands over to send: a header and a frame."""
    size = rng.choice(_LENGTHS[:10])
    head = rng.randbytes(_HEADER) if rng.random() < 0.3 else bytes(_HEADER)
    return head + rng.randbytes(min(size, 14)) + bytes(max(size - 14, 0))


class FuzzShare:
    """A server of a directory, beside which there is a secret, and a driver's requests to it."""

    def __init__(self, rng: random.Random) -> None:
        place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        self._top = Path(tempfile.mkdtemp(dir=place))
        self._secret = self._top / "secret"
        self._secret.write_bytes(SECRET)
        shared = self._top / "shared"
        (shared / "c").mkdir(parents=True)
        for name in ("a", "b", "c/d"):
            (shared / name).write_bytes(bytes(5000))
        self._lock = (shared / "a").open("rb")
        self.server = FileServer(
            shared, read_only=rng.random() < 0.2, trouble=lambda line: None, locks=True
        )
        self._maker = Maker(rng)
        self._begin = [self._init(), *self._known()]

    def request(self) -> bytes:
        """Return a request: at first those that let the next ones find something."""
        if self._begin:
            return self._begin.pop(0)
        made = None
        while made is None:
            made = self._maker.message()
        return made[1]

    def act(self, rng: random.Random) -> None:
        """Let a program of the host take a lock, or give it back."""
        with contextlib.suppress(OSError):
            fcntl.flock(self._lock, rng.choice((fcntl.LOCK_EX, fcntl.LOCK_UN)) | fcntl.LOCK_NB)

    def _init(self) -> bytes:
        body = fuse.INIT_IN.pack(fuse.MAJOR, 36, 1 << 17, 0xFFFF_FFFF)
        return self._whole(fuse.INIT, fuse.ROOT_ID, body)

    def _known(self) -> list[bytes]:
        """Return look-ups and openings, whose nodes and handles have numbers from 2 and 1 on."""
        self._maker.nodes += range(2, 6)
        self._maker.handles += range(2, 8)
        names = (b"a\0", b"b\0", b"c\0")
        return [
            *(self._whole(fuse.LOOKUP, fuse.ROOT_ID, name) for name in names),
            *(self._whole(fuse.OPEN, node, fuse.OPEN_IN.pack(os.O_RDWR, 0)) for node in (2, 2, 3)),
            self._whole(fuse.OPENDIR, 4, fuse.OPEN_IN.pack(0, 0)),
        ]

    @staticmethod
    def _whole(opcode: int, node: int, body: bytes) -> bytes:
        return fuse.IN_HEADER.pack(40 + len(body), opcode, 1, node, 0, 0, 0, 0) + body

    def close(self) -> None:
        """Close the server.  Raises ValueError if something beside the directory was changed."""
        self.server.close()
        self._lock.close()
        names = sorted(path.name for path in self._top.iterdir())
        same = names == ["secret", "shared"] and self._secret.read_bytes() == SECRET
        shutil.rmtree(self._top, ignore_errors=True)
        if not same:
            raise ValueError("something beside the shared directory was changed")
