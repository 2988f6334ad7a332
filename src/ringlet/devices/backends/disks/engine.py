"""The engine for qcow2: qemu-nbd, which reads images in a process of its own.

It ends when the connection ends, so it does not outlive Ringlet, however that ends.
"""

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ringlet.devices.backends.disks import locks, nbd
from ringlet.devices.backends.disks.chain import ImageInfo
from ringlet.errors import DiskError, HostError

PROGRAM: Final = "qemu-nbd"
ADVICE: Final = (
    f"qcow2 needs {PROGRAM}: install qemu-utils (Debian, Ubuntu), or qemu-img (Fedora, Arch)"
)
_MEMORY: Final = 4 << 20
"""The engine's address space in KiB (RLIMIT_AS); what it needs is less than 1 GiB."""
_FILES: Final = 512
_LOCKED: Final = re.compile(r" lock Is another process using the image \[(.*)\]")
_SECONDS: Final = 20.0
"""The longest time until the engine has opened the image."""
# systemd's protocol: the socket is descriptor 3, and LISTEN_PID says whom it is for.
_START: Final = f"""
ulimit -c 0; ulimit -v {_MEMORY}; ulimit -n {_FILES}
exec 3<&0 </dev/null
LISTEN_PID=$$ LISTEN_FDS=1 exec "$@"
"""


@dataclass(frozen=True, slots=True)
class Engine:
    """A process that serves one disk on `connection`."""

    process: subprocess.Popen[bytes]
    connection: socket.socket
    export: nbd.Export
    messages: int
    """A pipe with what it wrote to standard error; it holds 64 KiB, and the rest is dropped."""

    def last_words(self) -> str:
        """Return the last message of the engine in one line."""
        return _last_words(self.messages)

    def end(self, seconds: float) -> None:
        """Wait until the engine has ended, after `seconds` kill it."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        os.close(self.messages)


def start_engine(image: ImageInfo, *, read_only: bool) -> Engine:
    """Start an engine for `image`.  Raises DiskError if it cannot use it, or HostError."""
    program = shutil.which(PROGRAM)
    if program is None:
        raise HostError(f"disk {image.path}: {ADVICE}")
    command = [program]
    command += ["--read-only"] if read_only else ["--cache=writeback", "--discard=unmap"]
    command += [f"json:{json.dumps(graph(image, read_only=read_only))}"]
    if (confine := shutil.which("setpriv")) is not None:
        command = [confine, "--no-new-privs", *command]
    why = ""
    for _ in locks.attempts():
        started = _start(image, command)
        if isinstance(started, Engine):
            return started
        why = f"disk {image.path}: {started}"
        if (locked := _LOCKED.search(started)) is None:
            break
        with contextlib.suppress(OSError):
            path = Path(locked[1])
            writing = not read_only and path == image.path.absolute()
            why = locks.busy(path, path.stat(), writing=writing)
    raise DiskError(why)


def _start(image: ImageInfo, command: list[str]) -> Engine | str:
    """Return the engine, or its last words if it does not serve the image."""
    listening, connection = _pair()
    messages, words = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        with listening:
            process = subprocess.Popen(
                ["/bin/sh", "-c", _START, "sh", *command],
                stdin=listening.fileno(), stdout=subprocess.DEVNULL, stderr=words,
                env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8"},
                start_new_session=True,
                restore_signals=False,  # with a limit of file sizes it gets an error, no SIGXFSZ
            )  # fmt: skip
    except OSError as error:
        os.close(messages)
        connection.close()
        raise HostError(f"disk {image.path}: cannot start {PROGRAM}: {error.strerror}") from error
    finally:
        os.close(words)
    connection.settimeout(_SECONDS)
    try:
        return Engine(process, connection, nbd.negotiate(connection), messages)
    except (OSError, nbd.ProtocolError) as error:
        connection.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(1)  # its message is there when it has ended
        process.kill()
        process.wait()
        why = _last_words(messages) or str(error)
        os.close(messages)
        return why


def graph(image: ImageInfo, *, read_only: bool) -> dict[str, object]:
    """Return QEMU's description of `image` and all below it, so that it follows no name itself."""
    node: dict[str, object] = {
        "driver": image.format.value,
        "read-only": read_only,
        "discard": "unmap",
        "file": {
            "driver": "host_device" if image.path.is_block_device() else "file",
            "filename": str(image.path.absolute()),
            "read-only": read_only,
            "discard": "unmap",
        },
    }
    if image.format.value == "qcow2":
        below = image.backing
        node["backing"] = None if below is None else graph(below, read_only=True)
    return node


def _pair() -> tuple[socket.socket, socket.socket]:
    """Return a listening socket and one that is connected to it; no other process can find it."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    directory = tempfile.mkdtemp(prefix="ringlet-")
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    name = f"/proc/self/fd/{handle}/nbd"  # a path that fits into a socket's address
    try:
        listening.bind(name)
        listening.listen(1)
        connection.connect(name)
    except BaseException:
        listening.close()
        connection.close()
        raise
    finally:
        os.close(handle)
        shutil.rmtree(directory, ignore_errors=True)
    return listening, connection


def _last_words(messages: int) -> str:
    words = b""
    with contextlib.suppress(BlockingIOError):
        words = os.read(messages, 1 << 16)
    text = " ".join(words.decode(errors="replace").split())
    text = text.rpartition("}': ")[2].removeprefix(f"{PROGRAM}: ")
    return "".join(c if c.isprintable() else "?" for c in text)[-300:]
