"""The processor and the memory of a running guest, as a program reads and writes them."""

from collections.abc import Callable, Iterator, Mapping
from typing import Final, Protocol, TypeVar, cast

from ringlet.control.guest_thread import GuestThread
from ringlet.control.symbols import kernel_image, symbols_of
from ringlet.errors import ConfigError
from ringlet.machine.vm import Vm

T = TypeVar("T")
REGISTERS: Final = (
    "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", "r8", "r9", "r10", "r11", "r12", "r13",
    "r14", "r15", "rip", "rflags", "cr0", "cr2", "cr3", "cr4", "efer", "fs_base", "gs_base",
)  # fmt: skip
LARGEST: Final = 1 << 30
"""The most bytes that one call reads."""


class NoKernelYet(ConfigError):  # noqa: N818 - a state, which passes
    """The guest's kernel is not yet where it will run."""


class Inside(Protocol):
    """The part of a processor that a program may use."""

    def get(self, name: str) -> int: ...
    def set(self, name: str, value: int) -> None: ...
    def read_phys(self, address: int, size: int) -> bytes: ...
    def write_phys(self, address: int, data: bytes) -> None: ...
    def read_linear(self, address: int, size: int) -> bytes: ...
    def translate_linear(self, address: int) -> int | None: ...
    def poke_linear(self, address: int, data: bytes) -> None: ...


def inside(machine: Vm) -> Inside:
    """Return the processor of a machine with the methods that only Ringlet's own has."""
    return cast("Inside", machine.cpu)


class Cpu(Mapping[str, int]):
    """The registers of the guest's processor by name, such as `machine.cpu["rip"]`.

    A running guest changes them at any moment; pause it to read several that belong together.
    Assigning sets a register.  Raises ConfigError for another name than those in `REGISTERS`,
    and GuestEnded.
    """

    def __init__(self, machine: "Holder") -> None:
        self._holder = machine

    def __getitem__(self, name: str) -> int:
        _check(name)
        return self._holder.thread.call(lambda: inside(self._holder.vm()).get(name))

    def __setitem__(self, name: str, value: int) -> None:
        _check(name)
        if not 0 <= value < 1 << 64:
            raise ConfigError(f"{name}: {value:#x} does not fit in a register of 64 bits")
        self._holder.thread.call(lambda: inside(self._holder.vm()).set(name, value))

    def __iter__(self) -> Iterator[str]:
        return iter(REGISTERS)

    def __len__(self) -> int:
        return len(REGISTERS)

    def registers(self) -> dict[str, int]:
        """Return all registers as they are at one instruction."""

        def read() -> dict[str, int]:
            cpu = inside(self._holder.vm())
            return {name: cpu.get(name) for name in REGISTERS}

        return self._holder.thread.call(read)

    def __repr__(self) -> str:
        return f"<ringlet.Cpu of {self._holder!r}>"


class Holder(Protocol):
    """The machine whose inside it is."""

    @property
    def thread(self) -> GuestThread: ...
    def vm(self) -> Vm: ...


class Memory:
    """The guest's memory.  Addresses are guest physical, or linear where a name says so.

    Linear addresses are those of the processor at that moment: of the process that runs, or of the
    kernel.  Raises ConfigError for an address without memory, GuestEnded.
    """

    def __init__(self, machine: Holder) -> None:
        self._holder = machine
        self._symbols: Mapping[str, int] | None = None

    def read(self, address: int, size: int) -> bytes:
        """Return `size` bytes at physical `address`; at most `LARGEST`."""
        _check_size(size)
        return self._do(lambda cpu: cpu.read_phys(address, size), address)

    def write(self, address: int, data: bytes) -> None:
        """Write `data` at physical `address`; the guest's translated code there is dropped."""
        self._do(lambda cpu: cpu.write_phys(address, data), address)

    def read_linear(self, address: int, size: int) -> bytes:
        """Return `size` bytes at linear `address`; at most `LARGEST`."""
        _check_size(size)
        return self._do(lambda cpu: cpu.read_linear(address, size), address)

    def write_linear(self, address: int, data: bytes) -> None:
        """Write `data` at linear `address`, even where the guest itself may only read."""
        self._do(lambda cpu: cpu.poke_linear(address, data), address)

    def translate(self, address: int) -> int | None:
        """Return the physical address of linear `address`, or None if it is not mapped."""
        return self._do(lambda cpu: cpu.translate_linear(address), address)

    def symbol(self, name: str) -> int:
        """Return the linear address of a symbol of the guest's Linux kernel.

        It is found in the kernel's own table in memory, so a random base (KASLR) does not matter.
        Raises ConfigError if there is no such symbol, or no such table yet.
        """
        try:
            return self.symbols()[name]
        except KeyError:
            raise ConfigError(f"{name}: the guest's kernel has no symbol of this name") from None

    def symbols(self) -> Mapping[str, int]:
        """Return the linear addresses of all symbols of the guest's Linux kernel, by name.

        They are read once, which takes about a second.  Raises ConfigError if there is no table.
        """
        if self._symbols is None:
            image = self._do(lambda cpu: kernel_image(cpu.read_linear), 0)
            if image is None:
                raise NoKernelYet("no Linux kernel runs in the guest yet; wait until it prints")
            self._symbols = symbols_of(*image)
        return self._symbols

    def forget(self) -> None:
        """Forget the symbols, as another kernel starts."""
        self._symbols = None

    def _do(self, action: Callable[[Inside], T], address: int) -> T:
        """Return what `action` returns on the guest's thread.

        Errors become texts there, because a traceback would keep the processor and its memory.
        """

        def act() -> tuple[T | None, str]:
            try:
                return action(inside(self._holder.vm())), ""
            except (ValueError, OverflowError) as error:
                return None, str(error)

        value, wrong = self._holder.thread.call(act)
        if wrong:
            raise ConfigError(f"address {address:#x}: {wrong}")
        return cast("T", value)

    def __repr__(self) -> str:
        return f"<ringlet.Memory of {self._holder!r}>"


def _check(name: str) -> None:
    if name not in REGISTERS:
        raise ConfigError(f"{name!r}: no register of this name; there are {', '.join(REGISTERS)}")


def _check_size(size: int) -> None:
    if not 0 <= size <= LARGEST:
        raise ConfigError(f"size {size}: give 0 to {LARGEST} bytes")
