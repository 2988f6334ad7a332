"""The zygote: a small program from which all direct processes of a machine are made."""

import array
import os
import secrets
import socket
import struct
from pathlib import Path
from typing import Final

from ringlet.direct import filter as syscall_filter
from ringlet.direct.filter import Places
from ringlet.direct.process import (
    CONTROL, MESSAGE_AT, RAM, RIGHTS_AT, SHARED_SIZE, SOCKET, STACK, STUB, END, TOP,
    DirectProcess,
)

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
    """A running zygote."""

    def __init__(self, program: Path = PROGRAM) -> None:
        self._socket, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        labels = symbols(program)
        self.places = Places(
            labels["stub_told"], labels["stub_call"], labels["stub_returned"], labels["stub_sent"]
        )
        with other:
            self.pid = os.posix_spawn(
                program, ["ringlet-direct"], {},
                file_actions=[(os.POSIX_SPAWN_DUP2, other.fileno(), 3)],
            )

    def close(self) -> None:
        self._socket.close()
        os.waitpid(self.pid, 0)

    def make(self, ram: list[int], *, cpuid_faults: bool = False, tsc_faults: bool = False) -> DirectProcess:
        """A new direct process for guest RAM in the files `ram`."""
        # Neither half is 0, and the answer that carries it is a positive number.
        secret = secrets.randbits(62) | 1 << 62 | 1
        control = os.memfd_create("ringlet-direct", os.MFD_CLOEXEC)
        os.ftruncate(control, SHARED_SIZE)
        program = syscall_filter.program(self.places, secret, RAM, len(ram), SOCKET)
        os.pwrite(control, program, 0x1000 + 16)
        os.pwrite(control, struct.pack("<QQ", len(program) // 8, STACK + 16), 0x1000)
        # The message with the listener, whose number the stub fills in.
        os.pwrite(control, struct.pack("<QIIiI", 20, socket.SOL_SOCKET, socket.SCM_RIGHTS, 0, 0), RIGHTS_AT)
        vector = RIGHTS_AT + 24
        os.pwrite(control, struct.pack("<QQ", CONTROL, 1), vector)
        os.pwrite(control, struct.pack("<QQQQQQQ", 0, 0, CONTROL + vector, 1, CONTROL + RIGHTS_AT, 24, 0), MESSAGE_AT)
        mine, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with mine, its:
            request = struct.pack("<IIII", len(ram), cpuid_faults, tsc_faults, 0)
            socket.send_fds(self._socket, [request], [control, its.fileno(), *ram])
            its.close()
            data, fds, _, _ = socket.recv_fds(self._socket, 16, 1)
            (pid,) = struct.unpack("<q", data)
            if pid < 0:
                raise OSError(-pid, os.strerror(-pid))
            (pidfd,) = fds
            data, fds, _, _ = socket.recv_fds(mine, 16, 1)
            if not fds:
                raise OSError("a direct process has not started")
            (listener,) = fds
        process = DirectProcess(control, listener, pidfd, secret)
        os.close(control)
        process.pid = pid
        assert process.wait() == 1
        process.poke(0x1000, bytes(0x1000))
        process.command(syscall_filter.CLOSE_RANGE, SOCKET, 0xFFFFFFFF, 0)
        process.command(syscall_filter.MUNMAP, 0, STUB)
        process.command(syscall_filter.MUNMAP, END, TOP - END)
        process.again()
        assert process.wait() == 1
        results = process.results(3)
        assert results == [0, 0, 0], results
        return process
