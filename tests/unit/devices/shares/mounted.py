"""Mount a shared directory on this machine, so that its programs can be run on the server.

`python -m tests.unit.devices.shares.mounted ROOT POINT [OPTION...]`, as root: serves ROOT at
POINT through /dev/fuse until POINT is unmounted, and prints the requests it had.  The options are
ro, exclusive, locks and plain (without extended attributes).  It is for trials by hand; virtio-fs
carries the same messages.
"""

import ctypes
import errno
import os
import sys
import threading
from collections import Counter
from pathlib import Path

from ringlet.devices.backends.shares import FileServer
from ringlet.devices.backends.shares import protocol as fuse
from tests.unit.devices.shares.kernel import REQUESTS, scattered_into

ROOM = fuse.MAX_WRITE + (1 << 13)
THREADS = 2
_OPTIONS = "fd={},rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other"


def mount(point: str) -> int:
    """Mount a FUSE file system and return the descriptor of its connection."""
    connection = os.open("/dev/fuse", os.O_RDWR)
    libc = ctypes.CDLL(None, use_errno=True)
    options = _OPTIONS.format(connection).encode()
    if libc.mount(b"ringlet", point.encode(), b"fuse", 0, options):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), point)
    return connection


def serve(server: FileServer, connection: int, counts: Counter[int]) -> None:
    """Answer requests until the file system is unmounted."""
    request, reply = bytearray(ROOM), bytearray(ROOM)
    while True:
        try:
            size = os.readv(connection, [request])
        except OSError as error:
            if error.errno == errno.ENODEV:
                return
            continue  # an interrupted request
        counts[int.from_bytes(request[4:8], "little")] += 1
        parts = scattered_into(request, 40, size - 40)[:2]
        if server.waits(parts):
            copied = [memoryview(bytes(request[:size]))]
            threading.Thread(
                target=_answer, args=(server, connection, copied, bytearray(64))
            ).start()
        else:
            _answer(server, connection, parts, reply)


def _answer(server: FileServer, connection: int, parts: list[memoryview], reply: bytearray) -> None:
    size = server.handle(parts, scattered_into(reply, 16))
    if size:
        try:
            os.write(connection, memoryview(reply)[:size])
        except OSError as error:
            if error.errno != errno.ENOENT:  # of an interrupted request
                print("reply:", error, flush=True)


def main(root: str, point: str, *options: str) -> None:
    """Serve until the file system is unmounted."""
    connection = mount(point)
    server = FileServer(
        Path(root),
        read_only="ro" in options,
        trouble=lambda line: print(line, flush=True),
        exclusive="exclusive" in options,
        locks="locks" in options,
        xattrs="plain" not in options,
    )
    counts: Counter[int] = Counter()
    threads = [
        threading.Thread(target=serve, args=(server, connection, counts)) for _ in range(THREADS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    names = {value: name for name, value in vars(fuse).items() if name in REQUESTS}
    for opcode, count in counts.most_common():
        print(f"{count:10,} {names.get(opcode, opcode)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
