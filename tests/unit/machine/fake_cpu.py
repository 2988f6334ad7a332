"""A fake processor that follows a test's script: exits in a list, registers in a dictionary."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from ringlet.core.state import Exit, Key
from ringlet.machine.bus import Read, Write
from ringlet.mmu.guest_memory import GuestMemory
from ringlet.observe import EmulatedForm
from ringlet.vcpu.processor import Processor


@dataclass(frozen=True)
class FakeExit:
    """One exit with its fields, and what the guest does before it (`effect`)."""

    kind: Exit
    port: int = 0
    size: int = 1
    data: int = 0
    phys: int = 0
    effect: Callable[[], None] | None = None


def out(port: int, data: int, size: int = 1) -> FakeExit:
    return FakeExit(Exit.EXIT_IO_OUT, port=port, size=size, data=data)


def inp(port: int, size: int = 1) -> FakeExit:
    return FakeExit(Exit.EXIT_IO_IN, port=port, size=size)


HLT = FakeExit(Exit.EXIT_HLT)


@dataclass
class FakeCpu:
    """Plays `script`.

    With `interruptible_by_flag`, an interrupt that is pending with IF set comes first.

    When the script is over it spins, as a guest in a loop would, until it is kicked.
    """

    script: list[FakeExit] = field(default_factory=list)
    interruptible_by_flag: bool = True
    registers: dict[str, int] = field(default_factory=lambda: {"rip": 0x100000, "rflags": 2})
    segments: dict[int, tuple[int, int, int, int]] = field(default_factory=dict)
    tables: dict[str, tuple[int, int]] = field(default_factory=dict)
    memory: dict[int, bytes] = field(default_factory=dict)
    completed: list[int] = field(default_factory=list)
    injected: list[int] = field(default_factory=list)
    messages: list[tuple[int, int]] = field(default_factory=list)
    dropped: list[tuple[int, int]] = field(default_factory=list)
    doorbells: dict[tuple[str, int, int, int | None], int] = field(default_factory=dict)
    waits_in_halt: bool = False
    pending: bool = False
    a20_masked: bool = False
    due: int | None = None
    current: FakeExit = HLT
    ram: GuestMemory | None = None

    def __post_init__(self) -> None:
        self.kicked = threading.Event()

    def execute_directly(self, *_: object, **__: object) -> None:
        """Take the means of direct execution, which a script does not need."""

    def run(self) -> int:
        while (kind := self._step()) is None:
            pass
        return kind

    def _step(self) -> int | None:
        """Play one exit; return its kind, or None if the guest continues within `run`."""
        if self.kicked.is_set() or (self.due is not None and time.monotonic_ns() >= self.due):
            self.kicked.clear()
            self.due = None
            return Exit.EXIT_INTERRUPTED
        if self.interruptible():
            return Exit.EXIT_WINDOW
        if not self.script:
            left = 10.0 if self.due is None else (self.due - time.monotonic_ns()) / 1e9
            if not self.kicked.wait(max(0.0, left)) and self.due is None:
                raise AssertionError("the script is over and nobody stopped the machine")
            return None
        self.current = self.script.pop(0)
        if self.current.effect is not None:
            self.current.effect()
        match self.current.kind:
            case Exit.EXIT_IO_IN:
                self.completed.append(self.read(self.current.port, self.current.size))
            case Exit.EXIT_IO_OUT:
                self.write(self.current.port, self.current.size, self.current.data)
            case kind:
                return kind
        return None

    def attach_ports(self, read: Read, write: Write) -> None:
        self.read, self.write = read, write

    def attach_memory(self, read: Read, write: Write) -> None:
        self.read_memory, self.write_memory = read, write

    def add_doorbell(self, address: int, size: int, value: int | None, fd: int) -> bool:
        self.doorbells["memory", address, size, value] = fd
        return True

    def remove_doorbell(self, address: int, size: int, value: int | None) -> None:
        self.doorbells.pop(("memory", address, size, value), None)

    def add_port_doorbell(self, port: int, size: int, value: int | None, fd: int) -> bool:
        self.doorbells["port", port, size, value] = fd
        return True

    def remove_port_doorbell(self, port: int, size: int, value: int | None) -> None:
        self.doorbells.pop(("port", port, size, value), None)

    def attach_level(self, ended: Callable[[int], None]) -> None:
        self.level_ended = ended

    def wait_in_halt(self) -> None:
        self.waits_in_halt = True

    def message(self, address: int, data: int) -> None:
        self.messages.append((address, data))

    def exit_info(self) -> FakeExit:
        return self.current

    def complete(self, value: int = 0) -> None:
        self.completed.append(value)

    def kick(self) -> None:
        self.kicked.set()

    def guest_memory(self) -> GuestMemory:
        if self.ram is None:
            self.ram = Processor(1 << 20).guest_memory()
        return self.ram

    def drop_code(self, address: int, size: int) -> None:
        self.dropped.append((address, size))

    def set_alarm(self, due: int | None) -> None:
        self.due = due

    def mask_a20(self, masked: bool) -> None:
        self.a20_masked = masked

    def set_interrupt(self, pending: bool) -> None:
        self.pending = pending

    def interruptible(self) -> bool:
        return (
            self.pending and self.interruptible_by_flag and bool(self.registers["rflags"] & 0x200)
        )

    def inject(self, vector: int) -> None:
        self.injected.append(vector)

    def get(self, name: str) -> int:
        return self.registers.get(name, Key.KEY_MODE64 if name == "key" else 0)

    def set(self, name: str, value: int) -> None:
        self.registers[name] = value

    def set_segment(self, i: int, selector: int, base: int, limit: int, ar: int) -> None:
        self.segments[i] = (selector, base, limit, ar)

    def set_table(self, name: str, base: int, limit: int) -> None:
        self.tables[name] = (base, limit)

    def write_phys(self, addr: int, data: bytes) -> None:
        self.memory[addr] = data

    def counters(self) -> dict[str, int]:
        return {"exits": 7}

    def emulated_forms(self) -> list[EmulatedForm]:
        return [EmulatedForm("XLATB", 7, 0)]
