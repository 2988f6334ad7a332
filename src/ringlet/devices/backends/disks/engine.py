"""The engine for qcow2: qemu-storage-daemon, which reads images in a process of its own.

A shell waits on a pipe, the lifeline, whose other end only Ringlet has.  When that is closed, also
by the end of Ringlet, the shell ends the engine, which flushes the image.
"""

import contextlib
import errno
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ringlet.devices.backends.disks import locks, vhost
from ringlet.devices.backends.disks.chain import ImageInfo
from ringlet.errors import DiskError, HostError

PROGRAM: Final = "qemu-storage-daemon"
ADVICE: Final = (
    f"qcow2 needs {PROGRAM}: install qemu-utils (Debian 13, Ubuntu 24.04), "
    "qemu-system-common (Debian 12, Ubuntu 22.04) or qemu-img (Fedora, Arch)"
)
_MEMORY: Final = 4 << 20
"""The engine's address space in KiB (RLIMIT_AS); what it needs is less than 1 GiB."""
_FILES: Final = 512
_LOCKED: Final = re.compile(r" lock Is another process using the image \[(.*)\]")
_SECONDS: Final = 20.0
"""The longest time until the engine has opened the image."""
# The socket and the lifeline come as standard input and output, because they have fixed numbers.
_START: Final = f"""
(ulimit -c 0 && ulimit -v {_MEMORY} && ulimit -n {_FILES}) 2>&- &&
ulimit -c 0 && ulimit -v {_MEMORY} && ulimit -n {_FILES}  # where the limits are not lower anyway
exec 3<&0 4<&1 </dev/null >&2
"$@" 4<&- &
exec 3<&-
read -r nothing <&4
kill $!
wait $!
"""


@dataclass(frozen=True, slots=True)
class Engine:
    """A process that serves one disk on `connection`."""

    process: subprocess.Popen[bytes]
    connection: socket.socket
    lifeline: int
    messages: int
    """A pipe with what it wrote to standard error; it holds 64 KiB, and the rest is dropped."""

    def last_words(self) -> str:
        """Return the last message of the engine in one line."""
        return _last_words(self.messages)

    def kill(self) -> None:
        """End the engine at once."""
        if self.process.returncode is not None:
            return  # the number may be another process's by now
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def end(self, seconds: float) -> None:
        """Have the engine end, after `seconds` by force, and wait for that."""
        os.close(self.lifeline)
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            self.process.wait()
        os.close(self.messages)


def start_engine(image: ImageInfo, *, read_only: bool) -> Engine:
    """Start an engine for `image`.  Raises DiskError if it cannot use it, or HostError."""
    program = shutil.which(PROGRAM)
    if program is None:
        raise HostError(f"disk {image.path}: {ADVICE}")
    node = graph(image, read_only=read_only)
    export = {
        "type": "vhost-user-blk",
        "id": "disk",
        "node-name": node["node-name"],
        "writable": not read_only,
        "addr": {"type": "fd", "str": "3"},
    }
    command = [program, "--blockdev", json.dumps(node), "--export", json.dumps(export)]
    if (confine := shutil.which("setpriv")) is not None:
        # Should the shell be killed alone, nobody else would end the engine.
        command = [confine, "--no-new-privs", "--pdeathsig=KILL", *command]
    why = ""
    for _ in locks.attempts():
        started = _start(image, command)
        if isinstance(started, Engine):
            return started
        why = f"disk {image.path}: {started}"
        if not read_only and started.endswith(os.strerror(errno.EROFS)):
            why += "; add ,ro or ,snapshot to use it without writing"
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
    life, lifeline = os.pipe2(os.O_CLOEXEC)
    try:
        process = subprocess.Popen(
            ["/bin/sh", "-c", _START, "sh", *command],
            stdin=listening.fileno(), stdout=life, stderr=words,
            env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8"},
            start_new_session=True,
            restore_signals=False,  # with a limit of file sizes it gets an error, no SIGXFSZ
        )  # fmt: skip
    except OSError as error:
        os.close(messages)
        os.close(lifeline)
        connection.close()
        raise HostError(f"disk {image.path}: cannot start {PROGRAM}: {error.strerror}") from error
    finally:
        listening.close()
        os.close(words)
        os.close(life)
    connection.settimeout(_SECONDS)
    engine = Engine(process, connection, lifeline, messages)
    try:
        vhost.ask_features(connection)
    except (OSError, vhost.ProtocolError) as error:
        connection.close()
        why = engine.last_words() or str(error)
        engine.kill()
        engine.end(_SECONDS)
        return why
    return engine


def graph(image: ImageInfo, *, read_only: bool, name: str = "disk") -> dict[str, object]:
    """Return QEMU's description of `image` and all below it, so that it follows no name itself."""
    node: dict[str, object] = {
        "node-name": name,
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
        node["backing"] = None if below is None else graph(below, read_only=True, name=f"{name}-")
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
    text = text.rpartition("}: ")[2].removeprefix(f"{PROGRAM}: ")
    return "".join(c if c.isprintable() else "?" for c in text)[-300:]
