"""Ringlet as an engine: the only place where the differential and fuzz tests touch its API."""
from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from ringlet.arch.vendors import Vendor
from ringlet.core.state import Exit
from ringlet.errors import InternalError
from ringlet.vcpu.processor import Processor
from tests.differential import guest, layout, segments
from tests.differential.departure import Departure
from tests.differential.layout import PAGE
from tests.differential.program import (
    REGISTERS,
    SEGMENTS,
    SYSCALL_VECTOR,
    Outcome,
    Program,
    State,
    Status,
)
from tests.differential.ring0 import CODE, HLT, Case, Result, initial_registers

_CS, _SS = 1, 2
_NULL = (0, 0, 0, 0x10000)  # selector, base, limit, access rights: unusable
_FS, _GS = 4, 5


class Watchdog:
    """Kicks a processor out of run() when it has run for `timeout` seconds."""

    def __init__(self, processor: Processor, timeout: float) -> None:
        self.processor = processor
        self._timeout = timeout
        self._since: float | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()

    @contextmanager
    def watch(self) -> Iterator[None]:
        """The time begins."""
        self._since = time.monotonic()
        try:
            yield
        finally:
            self._since = None

    def close(self) -> None:
        """End the thread."""
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(self._timeout / 4):
            since = self._since
            if since is not None and time.monotonic() - since > self._timeout:
                self.processor.kick()


def new_processor(ist: int = 0, *, exact: bool = False,
                  vendor: Vendor | None = None) -> Processor:
    """A processor with the guest of `tests.differential.guest` in its memory."""
    p = Processor(guest.RAM_SIZE, speculate=not exact, vendor=vendor)
    p.write_phys(0, guest.memory(ist))
    reset_system(p)
    return p


def reset_system(p: Processor) -> None:
    """System registers for CPL 3 or 0 programs; the guest's memory must be in place."""
    p.set("efer", guest.EFER)
    p.set("cr4", guest.CR4)
    p.set("cr3", guest.PML4)
    p.set("cr0", guest.CR0)
    p.set("xcr0", guest.XCR0)
    p.set("star", guest.STAR)
    p.set("lstar", guest.LSTAR)
    p.set("sfmask", 0x4_7700)
    p.set("kernel_gs_base", 0)
    p.set("cr2", 0)
    p.set("dr7", 0x400)
    p.set("dr6", 0xFFFF0FF0)
    p.set_table("gdtr", guest.KERNEL + guest.GDT, guest.GDT_LIMIT)
    p.set_table("idtr", guest.KERNEL + guest.IDT, 0xFFF)
    p.set_segment(6, 0, 0, 0, 0x10082)  # LDTR: null
    p.set_segment(7, guest.TSS_SELECTOR, guest.KERNEL + guest.TSS, 0x67, 0x8B)


def load_state(p: Processor, state: State, cpl: int = 3) -> None:
    """Everything that a program's State names, at privilege `cpl`."""
    selectors = list(state.selectors)
    if cpl == 0:
        selectors[_CS], selectors[_SS] = guest.KERNEL_CS, guest.KERNEL_SS
    for i, selector in enumerate(selectors):
        segment = segments.segment_of(selector)
        if segment is not None:
            p.set_segment(i, selector, segment.base, segment.limit, segment.rights)
        else:
            p.set_segment(i, *((selector, 0, 0xFFFFFFFF, guest.AR[selector]) if selector
                               else _NULL))
    p.set("cpl", cpl)
    for name, value in zip(REGISTERS, state.gpr, strict=True):
        p.set(name, value)
    p.set("rip", state.rip)
    p.set("rflags", state.rflags)
    p.set("fs_base", state.fs_base)
    p.set("gs_base", state.gs_base)
    p.set_xsave(state.xsave)


_RING0_NAMES = ("rip", "rflags", "cr0", "cr2", "cr3", "cr4", "fs_base", "gs_base", "efer", "star",
                "lstar", "sfmask", "kernel_gs_base")


class RingletRing0:
    """Runs ring-0 cases, all on one Processor."""

    def __init__(self, timeout: float = 10.0) -> None:
        self.processor = new_processor(ist=1)
        self._memory = guest.memory(ist=1)
        self._watchdog = Watchdog(self.processor, timeout)

    def close(self) -> None:
        """End the watchdog."""
        self._watchdog.close()

    def run(self, case: Case) -> Result:
        """Run to HLT or an exception."""
        p = self.processor
        p.write_phys(0, self._memory)
        code = (case.code + HLT).ljust(0x200, HLT)
        p.write_phys(guest.RING0_CODE, code)
        if case.data:
            p.write_phys(guest.RING0_DATA, case.data)
        reset_system(p)
        registers = initial_registers(case)
        load_state(p, State(tuple(registers[n] for n in REGISTERS), CODE, case.rflags), cpl=0)
        with self._watchdog.watch():
            kind = p.run()
        if kind != Exit.EXIT_HLT:
            return Result(f"{Exit(kind).name} {p.exit_info()}", {}, b"")
        values = {n: p.get(n) for n in (*REGISTERS, *_RING0_NAMES)}
        values |= {n: p.get_segment(i)[0] for i, n in enumerate(SEGMENTS)}
        for name in ("gdtr", "idtr"):
            values[f"{name}_base"], values[f"{name}_limit"] = p.get_table(name)
        memory = p.read_phys(guest.GDT, 0x1000) + p.read_phys(guest.RING0_DATA, 0x2000)
        vector = guest.vector_of(values["rip"])
        if vector is None:
            return Result("hlt", values, memory)
        error, frame = guest.frame(p.read_phys(guest.IST1_TOP - 48, 48), vector)
        values |= dict(zip(("rip", "cs", "rflags", "rsp", "ss"), frame, strict=True))
        return Result(f"vector {vector}", values, memory, f"error code {error:#x}")


class RingletRunner:
    """Runs programs at CPL 3 on one Processor, which keeps its translations between them.

    `timeout` is seconds; a program that runs longer has the status TIMEOUT.  It is long, for the
    machine may be busy, and programs that are endless on the host are not brought here.
    """

    def __init__(self, timeout: float = 10.0, *, exact: bool = False,
                 vendor: Vendor | None = None) -> None:
        self.name = "ringlet-exact" if exact else "ringlet"
        self.departs = Departure.STORED if exact else Departure.AT_TARGET
        self._exact = exact
        self._vendor = vendor
        self.processor = self._new_processor()
        self._timeout = timeout
        self._watchdog = Watchdog(self.processor, timeout)
        self._stale: dict[int, bytes] = {}
        self._kind = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the watchdog."""
        self._watchdog.close()

    def lacks(self, native: Outcome) -> str | None:
        """Nothing is wanting."""
        del native
        return None

    def reset(self) -> None:
        """A new processor, without translations; the old one's address space is freed first."""
        del self.processor, self._watchdog.processor
        self.processor = self._watchdog.processor = self._new_processor()
        self._stale = {}

    def _new_processor(self) -> Processor:
        p = new_processor(exact=self._exact, vendor=self._vendor)
        p.set_segment(6, guest.LDT_SELECTOR, guest.KERNEL + guest.LDT,
                      8 * len(segments.TABLE) - 1, 0x82)
        return p

    def run(self, programs: Sequence[Program]) -> list[Outcome]:
        """Run each program from its own fresh memory."""
        return [self._run(p) for p in programs]

    def _run(self, program: Program) -> Outcome:
        broken = self._start(program)
        if broken is not None:
            self.reset()
            return Outcome(Status.SHUTDOWN, note=broken)
        pages = layout.changed_pages(self._image())
        self._stale = pages
        outcome = self._outcome(pages)
        if outcome.status is Status.SHUTDOWN:
            self.reset()  # it waits for something that nothing here gives
        return outcome

    def _start(self, program: Program) -> str | None:
        """Load and run a program until `_kind` is known; the message of an internal error."""
        p = self.processor
        for page in self._stale:
            at = page * PAGE
            self._write(at, layout.BASE_IMAGE[at:at + PAGE])
        for linear, data in program.memory:
            self._write(layout.image_offset(linear), data)
        self._load(program.state)
        start = time.monotonic()
        try:
            with self._watchdog.watch():
                self._kind = p.run()
                # A kick meant for the program before may arrive late.
                while self._kind == Exit.EXIT_INTERRUPTED \
                        and time.monotonic() - start < self._timeout:
                    self._kind = p.run()
        except InternalError as error:
            return str(error)
        return None

    def _load(self, state: State) -> None:
        load_state(self.processor, state)

    def _write(self, offset: int, data: bytes) -> None:
        """Write to the image."""
        self.processor.write_phys(guest.IMAGE + offset, data)

    def _image(self) -> bytes:
        return bytes(self.processor.read_phys(guest.IMAGE, layout.IMAGE_SIZE))

    def _vector(self, rip: int) -> int | None:
        return guest.vector_of(rip)

    def _frame(self, vector: int) -> tuple[int, tuple[int, ...]]:
        """Return the error code and RIP, CS, RFLAGS, RSP, SS that an exception pushed."""
        return guest.frame(self.processor.read_phys(guest.STACK_TOP - 48, 48), vector)

    def _outcome(self, pages: dict[int, bytes]) -> Outcome:
        p, kind = self.processor, self._kind
        if kind == Exit.EXIT_INTERRUPTED:
            return Outcome(Status.TIMEOUT, state=self._state(), pages=pages)
        if kind != Exit.EXIT_HLT:
            return Outcome(Status.SHUTDOWN, state=self._state(), pages=pages,
                           note=f"{Exit(kind).name} {p.exit_info()}")
        rip = p.get("rip")
        vector = self._vector(rip)
        if vector is None:
            if rip != guest.LSTAR + 1:
                return Outcome(Status.SHUTDOWN, state=self._state(), pages=pages,
                               note=f"halted at {rip:#x}")
            state = self._state()
            state = State(state.gpr, state.gpr[1], state.gpr[11], state.fs_base, state.gs_base,
                          state.xsave, (state.selectors[0], guest.USER_CS, guest.USER_SS,
                                        *state.selectors[3:]))
            return Outcome(Status.EVENT, SYSCALL_VECTOR, state=state, pages=pages)
        error, frame = self._frame(vector)
        return Outcome(Status.EVENT, vector, error, p.get("cr2"), self._state(frame), pages)

    def _state(self, frame: Sequence[int] | None = None) -> State:
        """The processor's state; `frame` (RIP CS RFLAGS RSP SS) is what an exception pushed."""
        p = self.processor
        gpr = [p.get(name) for name in REGISTERS]
        selectors = [p.get_segment(i)[0] for i in range(6)]
        rip, rflags = p.get("rip"), p.get("rflags")
        if frame is not None:
            rip, selectors[_CS], rflags, gpr[4], selectors[_SS] = frame
        return State(tuple(gpr), rip, rflags, p.get("fs_base"), p.get("gs_base"), p.get_xsave(),
                     tuple(selectors))
