"""Random requests to a shared directory's server: `python -m tests.fuzz.shares --seconds 3600`.

Requests with valid, wrong and wild fields, from several threads, while the host's side changes the
directory too.  The server must raise nothing, reply within its room, keep its descriptors bounded,
and leave what is beside the directory alone.  Exit status 1 if not.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import stat
import struct
import tempfile
import threading
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from ringlet.devices.backends.shares import FileServer, host
from ringlet.devices.backends.shares import protocol as fuse
from tests.unit.devices.shares.kernel import REQUESTS, descriptors, scattered, scattered_into

SECRET = b"of the host"
THREADS = 3
_NUMBERS = (0, 1, 2, 7, 40, 4096, 1 << 16, 1 << 31, (1 << 32) - 1, 1 << 62, 1 << 63, (1 << 64) - 1)
_NAMES = (
    b"a", b"b", b"c", b"d", b"link", b"fifo", b"..", b".", b"", b"../secret", b"a/b", b"\xff\xfe",
    b"n" * 255, b"n" * 256, b"user.x", b"security.capability", b"secret",
)  # fmt: skip
_KINDS = (stat.S_IFREG, stat.S_IFDIR, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFLNK)
_LAYOUTS: dict[str, tuple[struct.Struct, int]] = {  # fixed fields and how many names follow
    "LOOKUP": (struct.Struct(""), 1), "FORGET": (fuse.FORGET_IN, 0),
    "GETATTR": (fuse.GETATTR_IN, 0), "SETATTR": (fuse.SETATTR_IN, 0),
    "SYMLINK": (struct.Struct(""), 2), "MKNOD": (fuse.MKNOD_IN, 1), "MKDIR": (fuse.MKDIR_IN, 1),
    "UNLINK": (struct.Struct(""), 1), "RMDIR": (struct.Struct(""), 1),
    "RENAME": (fuse.RENAME_IN, 2), "RENAME2": (fuse.RENAME2_IN, 2), "LINK": (fuse.LINK_IN, 1),
    "OPEN": (fuse.OPEN_IN, 0), "OPENDIR": (fuse.OPEN_IN, 0), "CREATE": (fuse.CREATE_IN, 1),
    "READ": (fuse.READ_IN, 0), "READDIR": (fuse.READ_IN, 0), "READDIRPLUS": (fuse.READ_IN, 0),
    "WRITE": (fuse.WRITE_IN, 1), "RELEASE": (fuse.RELEASE_IN, 0),
    "RELEASEDIR": (fuse.RELEASE_IN, 0), "FSYNC": (fuse.FSYNC_IN, 0),
    "SETXATTR": (fuse.SETXATTR_IN, 2), "GETXATTR": (fuse.GETXATTR_IN, 1),
    "LISTXATTR": (fuse.GETXATTR_IN, 0), "REMOVEXATTR": (struct.Struct(""), 1),
    "FLUSH": (fuse.FLUSH_IN, 0), "GETLK": (fuse.LK_IN, 0), "SETLK": (fuse.LK_IN, 0),
    "SETLKW": (fuse.LK_IN, 0),
    "ACCESS": (fuse.ACCESS_IN, 0), "FALLOCATE": (fuse.FALLOCATE_IN, 0),
    "LSEEK": (fuse.LSEEK_IN, 0), "COPY_FILE_RANGE": (fuse.COPY_IN, 0),
    "BATCH_FORGET": (fuse.BATCH_FORGET_IN, 0), "INIT": (fuse.INIT_IN, 0),
}  # fmt: skip
_SKIPPED = dict.fromkeys(("DESTROY", "INIT"), 0.998) | dict.fromkeys(
    ("FORGET", "BATCH_FORGET", "RELEASE", "RELEASEDIR", "IOCTL", "SYNCFS"), 0.9
)
"""How often a request that makes the next ones dull is left out."""
_LARGEST = 1 << 22  # bytes: a larger file would fill the host's memory


_BY_HANDLE = frozenset({
    "READ", "READDIR", "READDIRPLUS", "WRITE", "RELEASE", "RELEASEDIR", "FSYNC", "FLUSH", "GETLK",
    "SETLK", "SETLKW", "FALLOCATE", "LSEEK", "COPY_FILE_RANGE",
})  # fmt: skip


@dataclass(slots=True)
class Findings:
    """How many requests had which answer, and what was broken."""

    answers: Counter[int] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)


class Maker:
    """Makes requests about the nodes and handles that its owner knows of."""

    def __init__(self, random_: random.Random) -> None:
        self.random = random_
        self.nodes = [fuse.ROOT_ID]
        self.handles = [1]

    def message(self) -> tuple[str, bytes] | None:
        """Return a request's name and bytes; None if it would make the next ones dull."""
        random_ = self.random
        name = random_.choice(REQUESTS)
        if random_.random() < _SKIPPED.get(name, 0.0):
            return None
        body = self._body(name)
        node = random_.choice((1, *self.nodes[-4:]) if random_.random() < 0.95 else _NUMBERS)
        length = 40 + len(body) if random_.random() < 0.95 else random_.choice(_NUMBERS[:9])
        opcode = getattr(fuse, name) if random_.random() < 0.99 else random_.randrange(70)
        if opcode == fuse.SETLKW:
            name = "SETLKW"
        unique = random_.randrange(1, 9)
        return name, fuse.IN_HEADER.pack(length, opcode, unique, node, 0, 0, 0, 0) + body

    def _body(self, name: str) -> bytes:
        random_ = self.random
        layout, names = _LAYOUTS.get(name, (fuse.GETATTR_IN, 0))
        fixed = bytearray(random_.randbytes(layout.size) if random_.random() < 0.1
                          else bytes(layout.size))  # fmt: skip
        for place in range(0, layout.size - 3, 4):
            if random_.random() < 0.5:
                value = random_.choice((*_NUMBERS, *_KINDS, *self.nodes[-3:], os.O_RDWR, 3))
                struct.pack_into("<I", fixed, place, value & 0xFFFFFFFF)
        if layout.size >= 8 and name in _BY_HANDLE and random_.random() < 0.9:
            struct.pack_into("<Q", fixed, 0, random_.choice(self.handles[-6:]))
        if name in {"LINK", "RENAME", "RENAME2"} and random_.random() < 0.9:
            struct.pack_into("<Q", fixed, 0, random_.choice((1, *self.nodes[-4:])))
        if layout.size >= 16 and random_.random() < 0.9:
            struct.pack_into("<Q", fixed, 8, random_.randrange(_LARGEST))
        if name in {"FALLOCATE", "SETATTR", "COPY_FILE_RANGE"}:
            self._small(name, fixed)
        body = bytes(fixed) + b"".join(random_.choice(_NAMES) + b"\0" for _ in range(names))
        return body if random_.random() < 0.95 else body[: random_.randrange(len(body) + 1)]

    def _small(self, name: str, fixed: bytearray) -> None:
        """Keep files small, as the host's disk is not what is tried."""
        if name == "SETATTR":
            struct.pack_into("<Q", fixed, 16, self.random.randrange(_LARGEST))
            return
        for place in range(8, len(fixed) - 7, 8):
            (value,) = struct.unpack_from("<Q", fixed, place)
            if value < 1 << 62:
                struct.pack_into("<Q", fixed, place, value % _LARGEST)


class Fuzzer:
    """Makes one thread's requests, with the numbers that replies have told."""

    def __init__(self, server: FileServer, seed: int, findings: Findings) -> None:
        self._server = server
        self._findings = findings
        self._maker = Maker(random.Random(seed))
        self._random = self._maker.random
        self._nodes = self._maker.nodes
        self._handles = self._maker.handles

    def request(self) -> None:
        """Send one request, and note what its reply tells."""
        random_ = self._random
        made = self._maker.message()
        if made is None or made[0] == "SETLKW":
            return
        name, message = made
        room = random_.choice((0, 8, 16, 24, 104, 144, 160, 4112, 70_000))
        reply = bytearray(room)
        parts = sorted(random_.randrange(60) for _ in range(random_.randrange(4)))
        try:
            size = self._server.handle(
                scattered(message, *parts), scattered_into(reply, min(16, room))
            )
        except Exception:  # noqa: BLE001  # whatever it is, it is what is looked for
            self._findings.broken.append(f"{name} {message.hex()}\n{traceback.format_exc()}")
            return
        self._check(name, reply, size)

    def _check(self, name: str, reply: bytearray, size: int) -> None:
        if not 0 <= size <= len(reply):
            self._findings.broken.append(f"{name}: {size} bytes in a room of {len(reply)}")
            return
        if size < 16:
            return
        length, error, _ = fuse.OUT_HEADER.unpack_from(reply)
        self._findings.answers[error] += 1
        if length != size or not -512 < error <= 0:
            self._findings.broken.append(f"{name}: a reply of {length} bytes, {size} written")
        if not error and size >= 24:
            (number,) = struct.unpack_from("<Q", reply, 16)
            if name in {"LOOKUP", "MKDIR", "MKNOD", "CREATE", "SYMLINK", "LINK"}:
                self._nodes.append(number or 1)
            elif name in {"OPEN", "OPENDIR"}:
                self._handles.append(number)
            if name == "CREATE" and size >= 160:
                self._handles.append(struct.unpack_from("<Q", reply, 144)[0])
        if not error and name in {"INIT", "DESTROY"}:
            del self._nodes[1:], self._handles[1:]
        del self._nodes[1:-50], self._handles[1:-50]


def disturb(shared: Path, random_: random.Random) -> None:
    """Change the directory on the host's side."""
    one, other = (shared / random_.choice("abcd") for _ in range(2))
    with contextlib.suppress(OSError):
        match random_.randrange(6):
            case 0:
                one.rename(other)
            case 1:
                one.symlink_to("../secret")
            case 2:
                one.unlink()
            case 3:
                one.mkdir()
            case 4:
                one.rmdir()
            case _:
                (shared / "link").symlink_to("..")


def run(seconds: float, seed: int, findings: Findings) -> None:
    """Send requests for so long."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as top:
        shared, secret = Path(top, "shared"), Path(top, "secret")
        shared.mkdir()
        secret.write_bytes(SECRET)
        secret.chmod(0o640)
        before, status = descriptors(), secret.stat()
        server = FileServer(shared, read_only=False, trouble=lambda line: None, locks=True)
        end = time.monotonic() + seconds

        def work(number: int) -> None:
            fuzzer = Fuzzer(server, seed * THREADS + number, findings)
            while time.monotonic() < end and not findings.broken:
                for _ in range(50):
                    fuzzer.request()

        threads = [threading.Thread(target=work, args=(number,)) for number in range(THREADS)]
        for thread in threads:
            thread.start()
        random_ = random.Random(seed)
        while any(thread.is_alive() for thread in threads):
            disturb(shared, random_)
            time.sleep(0.001)
        server.close()
        after = secret.stat()
        if secret.read_bytes() != SECRET or (after.st_mode, after.st_mtime_ns, after.st_nlink) != (
            status.st_mode, status.st_mtime_ns, status.st_nlink,
        ):  # fmt: skip
            findings.broken.append("the file beside the directory was changed")
        if sorted(path.name for path in Path(top).iterdir()) != ["secret", "shared"]:
            findings.broken.append("something was made beside the directory")
        if descriptors() > before + 1:  # of /proc/self/fd, with the server object
            findings.broken.append(f"{descriptors() - before} descriptors are left open")


def main() -> int:
    """Send requests; the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz.shares", description="Random requests to a shared directory."
    )
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    host.sync_filesystem = lambda fd: None  # it takes long on a busy disk
    findings, seed, end = Findings(), options.seed, time.monotonic() + options.seconds
    while time.monotonic() < end and not findings.broken:
        run(min(10, end - time.monotonic()), seed, findings)
        seed += 1
    answers = ", ".join(
        f"{os.strerror(-code) if code else 'done'}: {count}"
        for code, count in findings.answers.most_common()
    )
    print(f"{findings.answers.total()} replies ({answers})")
    for line in findings.broken:
        print(line)
    return 1 if findings.broken else 0


if __name__ == "__main__":
    raise SystemExit(main())
