"""The zygote: a small program from which all direct processes of a machine are made."""

import errno
import os
import secrets
import signal
import socket
import struct
import weakref
from pathlib import Path
from typing import Final

from ringlet.direct import filter as syscall_filter
from ringlet.direct.filter import Places
from ringlet.direct.linux import END_WAKES, WAKES_HERE, linux_version
from ringlet.direct.process import (
    CONTROL,
    END,
    MESSAGE_AT,
    RAM,
    RIGHTS_AT,
    SHARED_SIZE,
    SOCKET,
    STACK,
    STUB,
    TOP,
    DirectProcess,
    cpuid_faults,
)

LIMIT: Final = 24
"""Processes of a virtual processor.  Address spaces share them, the longest unused giving way."""
PROGRAM: Final = Path(__file__).parent / "zygote"


def symbols(program: Path) -> dict[str, int]:
    """The addresses of the stub's labels, from the program's ELF symbol table."""
    data = program.read_bytes()
    (table,) = struct.unpack_from("<Q", data, 0x28)
    size, count, _ = struct.unpack_from("<HHH", data, 0x3A)
    sections = [struct.unpack_from("<IIQQQQIIQQ", data, table + i * size) for i in range(count)]
    found: dict[str, int] = {}
    for _, kind, _, _, offset, length, link, _, _, entry in sections:
        if kind != 2:
            continue
        names = sections[link][4]
        for at in range(offset, offset + length, entry):
            name, _, _, _, value, _ = struct.unpack_from("<IBBHQQ", data, at)
            end = data.index(b"\0", names + name)
            found[data[names + name : end].decode()] = value
    return found


class Zygote:
    """A running zygote.  It ends, and its processes with it, when nothing refers to it.

    `cpuid_faults`: CPUID traps in its processes.  `linux`: use only what this version of Linux has.
    Raises OSError.
    """

    def __init__(self, program: Path = PROGRAM, *, linux: tuple[int, ...] | None = None) -> None:
        self._linux = linux or linux_version()
        self._socket, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.cpuid_faults = cpuid_faults()
        labels = symbols(program)
        self.places = Places(
            labels["stub_told"], labels["stub_call"], labels["stub_returned"], labels["stub_sent"]
        )
        with other:
            self.pid = os.posix_spawn(
                program, ["ringlet-direct"], {},
                file_actions=[(os.POSIX_SPAWN_DUP2, other.fileno(), 3)],
            )  # fmt: skip
        self.close = weakref.finalize(self, _end, self._socket, self.pid)

    def make(self, ram: list[int]) -> DirectProcess:
        """Return a new direct process for guest RAM in the files `ram`.  Raises OSError."""
        # Neither half is 0, and the answer that carries it is a positive number.
        secret = secrets.randbits(62) | 1 << 62 | 1
        control = os.memfd_create("ringlet-direct", os.MFD_CLOEXEC)
        try:
            self._write_start(control, secret, len(ram))
            pid, pidfd, listener = self._start(control, ram)
            process = DirectProcess(
                control, listener, pidfd, pid, secret,
                wakes_here=self._linux >= WAKES_HERE, end_wakes=self._linux >= END_WAKES,
            )  # fmt: skip
        finally:
            os.close(control)
        if not process.wakes_here:
            _try_placing(process)
        _confine(process)
        return process

    def _write_start(self, control: int, secret: int, files: int) -> None:
        """Write what the process needs to start: its filter, and the message with its listener."""
        os.ftruncate(control, SHARED_SIZE)
        program = syscall_filter.program(self.places, secret, RAM, files, SOCKET)
        at = STACK - CONTROL
        os.pwrite(control, struct.pack("<QQ", len(program) // 8, STACK + 16), at)
        os.pwrite(control, program, at + 16)
        # The stub fills in the listener's number.
        rights = struct.pack("<QIIiI", 20, socket.SOL_SOCKET, socket.SCM_RIGHTS, 0, 0)
        vector = RIGHTS_AT + len(rights)
        os.pwrite(control, rights + struct.pack("<QQ", CONTROL, 1), RIGHTS_AT)
        message = (0, 0, CONTROL + vector, 1, CONTROL + RIGHTS_AT, len(rights), 0)
        os.pwrite(control, struct.pack("<QQQQQQQ", *message), MESSAGE_AT)

    def _start(self, control: int, ram: list[int]) -> tuple[int, int, int]:
        """Have the zygote make the process; return its number and two descriptors."""
        mine, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with mine, its:
            request = struct.pack("<II", len(ram), self.cpuid_faults)
            socket.send_fds(self._socket, [request], [control, its.fileno(), *ram])
            its.close()
            data, pidfds, flags, _ = socket.recv_fds(self._socket, 16, 1)
            if not data:
                raise OSError(errno.ECHILD, "the zygote of direct processes has ended")
            (pid,) = struct.unpack("<q", data)
            if pid < 0:
                raise OSError(-pid, f"no direct process: {os.strerror(-pid)}")
            _, listeners, more, _ = socket.recv_fds(mine, 16, 1)
            if pidfds and listeners:
                return pid, pidfds[0], listeners[0]
            for fd in (*pidfds, *listeners):
                os.close(fd)
            os.kill(pid, signal.SIGKILL)
            if (flags | more) & socket.MSG_CTRUNC:
                raise OSError(errno.EMFILE, "no direct process: too many open files")
            raise OSError(errno.ENOSYS, "a direct process cannot have a system call filter")


def _end(connection: socket.socket, pid: int) -> None:
    connection.close()
    os.waitpid(pid, 0)


def _try_placing(process: DirectProcess) -> None:
    """Raise OSError if the process cannot be kept on the virtual processor's."""
    try:
        os.sched_setaffinity(process.pid, os.sched_getaffinity(0))
    except OSError as error:
        raise OSError(
            error.errno, f"a direct process cannot be kept on a processor: {error.strerror}"
        ) from error


def _settle(process: DirectProcess) -> None:
    if not process.wait():
        raise OSError(errno.ESRCH, "a direct process has ended at its start")


def _confine(process: DirectProcess) -> None:
    """Take from a process what it has besides the stub and the shared memory."""
    _settle(process)
    process.poke(STACK - CONTROL, bytes(SHARED_SIZE - (STACK - CONTROL)))
    process.command(syscall_filter.CLOSE_RANGE, 0, RAM - 1, 0)
    process.command(syscall_filter.CLOSE_RANGE, SOCKET, 0xFFFFFFFF, 0)
    process.command(syscall_filter.MUNMAP, 0, STUB)
    process.command(syscall_filter.MUNMAP, END, TOP - END)
    process.again()
    _settle(process)
    if process.results(4) != [0, 0, 0, 0]:
        raise OSError(errno.EPERM, "a direct process keeps what it should not have")
