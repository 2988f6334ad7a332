"""The host's side of a guest's sockets (AF_VSOCK), as sockets of the file system.

It is what Firecracker calls a hybrid socket device.  A program of the host connects to the socket
PATH, sends "CONNECT PORT" and a newline, and gets "OK NUMBER" and a newline once a program of the
guest that listens at that port has taken the stream; else the connection is closed.  A guest's
program that calls port N of the host (CID 2) gets a stream to whoever listens at the socket PATH_N,
which must be a socket of the same user, and no link to one.
"""

import contextlib
import errno
import fcntl
import os
import re
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ringlet.errors import ConfigError

WAITING: Final = 64
"""Connections that have not said yet which port they want; the oldest gives way to a new one."""
_LONGEST_LINE: Final = 32
_LONGEST_PATH: Final = 107
"""Bytes of the name of a socket (struct sockaddr_un, without its final zero)."""
_LONGEST_PORT: Final = len("_4294967295")
_LOCK_PATIENCE_S: Final = 2.0
_LOCK_AGAIN_S: Final = 0.005
_CONNECT: Final = re.compile(rb"CONNECT (\d{1,10})\r?\n")
_LAST_PORT: Final = 0xFFFF_FFFE
"""The highest port; the one above it stands for any (VMADDR_PORT_ANY)."""


class HostSockets:
    """The socket at `path`, until `close`.  Raises ConfigError if it cannot be made."""

    def __init__(self, path: Path, called: str) -> None:
        self._path = path
        if len(os.fsencode(path)) + _LONGEST_PORT > _LONGEST_PATH:
            raise ConfigError(
                f"{called} {path}: the path is too long; give one of at most "
                f"{_LONGEST_PATH - _LONGEST_PORT} bytes, perhaps a relative one"
            )
        self._listener = socket.socket(socket.AF_UNIX)
        try:
            os.fchmod(self._listener.fileno(), 0o600)  # the mode of the file that bind makes
            with _alone_in(path.parent):
                _remove_stale(path)
                self._listener.bind(str(path))
                status = path.lstat()
                self._listener.listen(WAITING)
        except OSError as error:
            self._listener.close()
            raise ConfigError(f"{called} {path}: {_why(error)}; give another path") from None
        self._listener.setblocking(False)
        self._identity = status.st_dev, status.st_ino

    def fileno(self) -> int:
        """Return the descriptor that is readable when `accept` has a connection."""
        return self._listener.fileno()

    def accept(self) -> socket.socket | None:
        """Return the next connection, which does not block; None if there is none.

        Raises OSError if the process or the host has too many files: the connection still waits.
        """
        try:
            sock, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):  # it is gone already
            return None
        sock.setblocking(False)
        return sock

    def dial(self, port: int) -> socket.socket | None:
        """Return a stream to whoever listens for the guest's calls of `port`; None if nobody does.

        It does not block.
        """
        try:
            sock = socket.socket(socket.AF_UNIX)
        except OSError:  # the process has too many files
            return None
        sock.setblocking(False)
        try:
            _connect(sock, f"{self._path}_{port}")
        except OSError:  # nobody listens, or too many calls wait there
            sock.close()
            return None
        return sock

    def close(self) -> None:
        """Close the socket, and remove its file if it is still the same."""
        self._listener.close()
        with contextlib.suppress(OSError):
            status = self._path.lstat()
            if (status.st_dev, status.st_ino) == self._identity:
                self._path.unlink()


def wanted_port(sock: socket.socket, said: bytearray) -> int | None:
    """Read the line of a connection of `HostSockets.accept`; return the port that it wants.

    `said` keeps what was read of the line, at first nothing.  What follows the line is left in the
    socket.  Returns None while the line is not complete: then nothing more can be read now.  Raises
    ValueError for anything else than such a line, or its end.
    """
    try:
        data = sock.recv(_LONGEST_LINE - len(said), socket.MSG_PEEK)
        line, newline, _ = data.partition(b"\n")
        # What is only looked at would be readable for ever.
        said += sock.recv(len(line) + len(newline)) if data else b""
    except BlockingIOError:
        return None
    except OSError:
        raise ValueError("the connection is broken") from None
    if not newline:
        if not data or len(said) == _LONGEST_LINE:
            raise ValueError("no line")
        return None
    found = _CONNECT.fullmatch(said)
    if found is None or int(found[1]) > _LAST_PORT:
        raise ValueError("not a port")
    return int(found[1])


def _connect(sock: socket.socket, path: str) -> None:
    """Connect `sock` to the user's own socket at `path`, not to where a link leads.

    The socket that was looked at is the one that is called, whatever becomes of its name.
    """
    fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        status = os.fstat(fd)
        if not stat.S_ISSOCK(status.st_mode) or status.st_uid != os.geteuid():
            raise ConnectionRefusedError(errno.ECONNREFUSED, "not a socket of this user")
        sock.connect(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)


@contextlib.contextmanager
def _alone_in(directory: Path) -> Iterator[None]:
    """Keep other machines from making sockets in `directory` meanwhile.

    A socket that has its name and does not listen yet looks like one that a killed machine has
    left.  A directory that cannot be locked is used as it is: it may not be read, its file system
    has no locks, or somebody else, who may be any user of the host, has locked it.
    """
    with contextlib.ExitStack() as held:
        with contextlib.suppress(OSError):  # binding tells if the directory is not there
            fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            held.callback(os.close, fd)
            _lock(fd)
        yield


def _lock(fd: int) -> None:
    """Lock a directory, if others let it go in time."""
    end = time.monotonic() + _LOCK_PATIENCE_S
    while time.monotonic() < end:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_LOCK_AGAIN_S)
        else:
            return


def _remove_stale(path: Path) -> None:
    """Remove a socket that nobody listens at any more.  Raises OSError if somebody does."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise FileExistsError(errno.EEXIST, "there is a file of this name")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except BlockingIOError:
            pass
    raise OSError(errno.EADDRINUSE, "another process listens there")


def _why(error: OSError) -> str:
    return error.strerror or str(error)
