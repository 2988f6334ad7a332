"""The engine for qcow2: qemu-storage-daemon, which reads images in a process of its own.

A shell waits on a pipe, the lifeline, whose other end only Ringlet has.  When that is closed, also
by the end of Ringlet, the shell ends the engine, which flushes the image.
"""

import contextlib
import errno
import fcntl
import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from ringlet.devices.backends.disks import locks, vhost
from ringlet.devices.backends.disks.chain import OpenImage
from ringlet.disk_spec import Format
from ringlet.errors import DiskError, HostError, remedy

PROGRAM: Final = "qemu-storage-daemon"
ADVICE: Final = (
    f"qcow2 needs {PROGRAM}: install qemu-utils (Debian 13, Ubuntu 24.04), "
    "qemu-system-common (Debian 12, Ubuntu 22.04) or qemu-img (Fedora, Arch)"
)
_MEMORY: Final = 4 << 20
"""The engine's address space in KiB (RLIMIT_AS); what it needs is less than 1 GiB."""
_FILES: Final = 512
_LOCKED: Final = re.compile(r" lock Is another process using the image \[(.*)\]")
_NAME: Final = re.compile(r"/proc/self/fd/[0-9]+")
_FREE: Final = 64
"""Shells use the numbers below 20 for themselves."""
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
    names: Mapping[str, Path]
    """The images, by the names that the engine has for them."""

    def last_words(self) -> str:
        """Return the last message of the engine in one line."""
        return _last_words(self.messages, self.names)

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


def start_engine(image: OpenImage, *, read_only: bool) -> Engine:
    """Start an engine for `image`.  Raises DiskError if it cannot use it, or HostError.

    It opens the very files that were checked: names could lead to others by now.
    """
    program = shutil.which(PROGRAM)
    if program is None:
        raise HostError(f"disk {image.info.path}: {ADVICE}")
    try:
        with _for_the_engine(image.fds) as fds:
            return _start_with(replace(image, fds=fds), program, read_only=read_only)
    except OSError as error:
        limit = remedy(error)
        what = f"disk {image.info.path}: cannot start {PROGRAM}: {error.strerror}"
        raise HostError(f"{what}; {limit}" if limit else what) from error


def _start_with(image: OpenImage, program: str, *, read_only: bool) -> Engine:
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
    error = DiskError(f"disk {image.info.path}: the engine was not started")
    for _ in locks.attempts():
        started = _start(image, command)
        if isinstance(started, Engine):
            return started
        why = f"disk {image.info.path}: {started}"
        if not read_only and started.endswith(os.strerror(errno.EROFS)):
            why += "; add ,ro or ,snapshot to use it without writing"
        error = DiskError(why)
        if (locked := _LOCKED.search(started)) is None:
            break
        with contextlib.suppress(OSError):
            error = _in_use(Path(locked[1]))
    raise error


def _in_use(path: Path) -> DiskError:
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return locks.in_use(path, fd)
    finally:
        os.close(fd)


def _start(image: OpenImage, command: list[str]) -> Engine | str:
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
            pass_fds=image.fds,
        )  # fmt: skip
    except OSError:
        os.close(messages)
        os.close(lifeline)
        connection.close()
        raise
    finally:
        listening.close()
        os.close(words)
        os.close(life)
    connection.settimeout(_SECONDS)
    names = {
        _name(fd): info.path.absolute()
        for fd, info in zip(image.fds, image.info.chain(), strict=True)
    }
    engine = Engine(process, connection, lifeline, messages, names)
    try:
        vhost.ask_features(connection)
    except (OSError, vhost.ProtocolError) as error:
        connection.close()
        why = engine.last_words() or str(error)
        engine.kill()
        engine.end(_SECONDS)
        return why
    return engine


def graph(image: OpenImage, *, read_only: bool) -> dict[str, object]:
    """Return QEMU's description of `image` and all below it, so that it follows no name itself."""
    node: dict[str, object] | None = None
    nodes = list(zip(image.info.chain(), image.fds, strict=True))
    for depth, (info, fd) in reversed([*enumerate(nodes)]):
        fixed = read_only or depth > 0
        block = stat.S_ISBLK(os.fstat(fd).st_mode)
        below, node = node, {
            "node-name": "disk" + "-" * depth,
            "driver": info.format.value,
            "read-only": fixed,
            "discard": "unmap",
            "file": {
                "driver": "host_device" if block else "file",
                "filename": _name(fd),
                "read-only": fixed,
                "discard": "unmap",
            },
        }
        if info.format is Format.QCOW2:
            node["backing"] = below
    assert node is not None
    return node


def _name(fd: int) -> str:
    """Return the engine's name for a file that it gets as descriptor `fd`."""
    return f"/proc/self/fd/{fd}"


@contextlib.contextmanager
def _for_the_engine(fds: Sequence[int]) -> Iterator[list[int]]:
    """Give copies of descriptors with numbers that the shell does not use itself."""
    copies: list[int] = []
    try:
        copies.extend(fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _FREE) for fd in fds)
        yield copies
    finally:
        for fd in copies:
            os.close(fd)


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


def _last_words(messages: int, names: Mapping[str, Path]) -> str:
    words = b""
    with contextlib.suppress(BlockingIOError):
        words = os.read(messages, 1 << 16)
    text = " ".join(words.decode(errors="replace").split())
    text = text.rpartition("}: ")[2].removeprefix(f"{PROGRAM}: ")
    text = _NAME.sub(lambda found: str(names.get(found[0], found[0])), text)
    return "".join(c if c.isprintable() else "?" for c in text)[-300:]
