"""The host's own processor as an engine: see native.c for how a program is run."""
from __future__ import annotations

import functools
import mmap
import os
import struct
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.differential import layout, segments
from tests.differential.departure import Departure
from tests.differential.layout import AREAS, BASE_IMAGE, IMAGE_SIZE, PAGE
from tests.differential.program import Outcome, Program, State, Status

_STATE = struct.Struct("<20Q6H20x832s")
_EVENT = struct.Struct("<IIIIQQ")
_REQUEST_SIZE = 8192
_RESPONSE_SIZE = PAGE + IMAGE_SIZE
_PATCHES = 1032
_BATCH = 128
_MAX_AREAS = 32
_TRIES = 8

# What the kernel pretends: a user access at or above TASK_SIZE_MAX is a protection fault
# (arch/x86/mm/fault.c, set_signal_archinfo), so that its page tables do not leak.
TASK_SIZE_MAX = 0x7FFF_FFFF_F000
FRAME_PAGE = 0x7FFE_0000  # of native.c itself

_SIGSYS = 31
_SOURCE = Path(__file__).with_name("native.c")


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="ringlet-native-")


@functools.cache
def build(source: Path = _SOURCE) -> Path:
    """Compile a program of host.h's kind once per process; the path of the executable."""
    target = Path(_folder().name) / source.stem
    subprocess.run(["gcc", "-O2", "-Wall", "-Werror", "-static-pie", "-fPIE", "-nostdlib",
                    "-ffreestanding", "-fno-stack-protector", "-mgeneral-regs-only",
                    "-fcf-protection=none", "-I", _SOURCE.parent, "-o", target, source], check=True)
    return target


def spawn(program: Path, shared: int) -> subprocess.Popen[bytes]:
    """Start such a program with a shared file."""
    # dup2 onto descriptor 3, where the child expects the shared file
    return subprocess.Popen(
        ["/bin/sh", "-c", f'exec "$0" 3<>/proc/self/fd/{shared}', str(program)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=[shared], bufsize=0)


def pack_state(state: State) -> bytes:
    return _STATE.pack(*state.gpr, state.rip, state.rflags, state.fs_base, state.gs_base,
                       *state.selectors, state.xsave)


def unpack_state(data: bytes | mmap.mmap, offset: int = 0) -> State:
    v = _STATE.unpack_from(data, offset)
    return State(v[:16], v[16], v[17], v[18], v[19], v[26], v[20:26])


class NativeRunner:
    """Runs programs on the host processor in a child process; restarts it if a program kills it.

    `timeout` is seconds; a program that runs longer has the status TIMEOUT.
    """

    name = "native"
    departs = Departure.NONE

    def __init__(self, timeout: float = 0.05) -> None:
        self._base = PAGE
        self._live = self._base + IMAGE_SIZE
        self._requests = self._live + IMAGE_SIZE
        self._responses = self._requests + _BATCH * _REQUEST_SIZE
        self._size = self._responses + _BATCH * _RESPONSE_SIZE
        self._fd = os.memfd_create("ringlet-differential")
        os.ftruncate(self._fd, self._size)
        self._shared = mmap.mmap(self._fd, self._size)
        tick = 0.005
        head = struct.pack("<13Q", self._size, IMAGE_SIZE, self._base, self._live, self._requests,
                           _REQUEST_SIZE, self._responses, _RESPONSE_SIZE, 0, 0,
                           int(tick * 1e6), max(2, round(timeout / tick)), len(AREAS))
        areas = b"".join(struct.pack("<4Q", a.linear, a.offset, a.size, a.prot)
                         for a in AREAS.values())
        # struct user_desc of asm/ldt.h
        table = struct.pack("<Q", len(segments.TABLE)) + b"".join(
            struct.pack("<4I", i, s.base, s.pages or s.limit, s.linux_flags)
            for i, s in enumerate(segments.TABLE))
        whole = head + areas.ljust(32 * _MAX_AREAS, b"\0") + table
        self._shared[:len(whole)] = whole
        self._shared[self._base:self._base + IMAGE_SIZE] = BASE_IMAGE
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the child process and release the shared file."""
        self._stop()
        self._shared.close()
        os.close(self._fd)

    def lacks(self, native: Outcome) -> str | None:
        """Nothing is wanting."""
        del native
        return None

    def reset(self) -> None:
        """Nothing is kept between programs."""

    def run(self, programs: Sequence[Program]) -> list[Outcome]:
        """Run each program from its own fresh memory; outcomes in the same order."""
        out: list[Outcome] = []
        for i in range(0, len(programs), _BATCH):
            out += self._run_batch(programs[i:i + _BATCH])
        return out

    def _start(self) -> subprocess.Popen[bytes]:
        for _ in range(_TRIES):
            child = spawn(build(), self._fd)
            assert child.stdout is not None
            if child.stdout.read(1):
                return child
            self._reap(child)
        raise RuntimeError("the native runner does not start: an address of the layout is taken")

    @staticmethod
    def _reap(child: subprocess.Popen[bytes]) -> None:
        assert child.stdin is not None and child.stdout is not None
        child.stdin.close()
        child.stdout.close()
        child.kill()
        child.wait()

    def _stop(self) -> None:
        if self._child is not None:
            self._reap(self._child)
            self._child = None

    def _run_batch(self, programs: Sequence[Program]) -> list[Outcome]:
        outcomes: list[Outcome] = []
        while len(outcomes) < len(programs):
            todo = programs[len(outcomes):]
            for i, program in enumerate(todo):
                self._write_request(i, program)
                at = self._responses + i * _RESPONSE_SIZE + 1024
                self._shared[at:at + 4] = bytes(4)
            struct.pack_into("<QQ", self._shared, 64, len(todo), 0)
            if self._child is None:
                self._child = self._start()
            assert self._child.stdin is not None and self._child.stdout is not None
            self._child.stdin.write(b"g")
            if self._child.stdout.read(1):
                outcomes += [self._read_response(i) for i in range(len(todo))]
            else:  # it died on program number `progress`
                died = struct.unpack_from("<Q", self._shared, 72)[0]
                outcomes += [self._read_response(i) for i in range(died)]
                outcomes.append(Outcome(Status.NOT_RUN, note="the native runner died"))
                self._stop()
        return outcomes

    def _write_request(self, i: int, program: Program) -> None:
        at = self._requests + i * _REQUEST_SIZE
        data = bytearray(pack_state(program.state))
        data += struct.pack("<II", len(program.memory), 0)
        for linear, content in program.memory:
            data += struct.pack("<QQ", layout.image_offset(linear), len(content)) + content
            data += bytes(-len(content) % 8)
        if len(data) > _REQUEST_SIZE:
            raise ValueError(f"program with {len(data)} bytes of state and memory is too large")
        self._shared[at:at + len(data)] = bytes(data)

    def _read_response(self, i: int) -> Outcome:
        at = self._responses + i * _RESPONSE_SIZE
        state = unpack_state(self._shared, at)
        status, signal, vector, error, cr2, changed = _EVENT.unpack_from(self._shared, at + 1024)
        pages = {}
        while changed:
            page = (changed & -changed).bit_length() - 1
            changed &= changed - 1
            at += PAGE
            pages[page] = self._shared[at:at + PAGE]
        if signal == _SIGSYS:
            vector, error, cr2 = 0x100, 0, 0
        return Outcome(Status(status), vector, error, cr2, state, pages)
