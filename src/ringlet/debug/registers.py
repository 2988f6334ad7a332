"""The registers that gdb sees, and the location of each in the processor.

Features and names are those that gdb knows for x86 (GDB manual, appendix G.5.13);
`ringlet.debug.layouts` puts them in order.

What gdb takes for the program counter is a linear address.  Where CS has a base, it is not RIP, EIP
or IP: that is in the register `ip`.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from ringlet.machine.place import code_bits, program_counter

XSAVE_SIZE: Final = 832
_XSTATE_BV: Final = 512
_X87, _SSE, _AVX = 1, 2, 4
_MXCSR_AT: Final = 24
_MXCSR_BITS: Final = 0xFFFF
_FLAGS: Final = 0x247FD5
"""The flags that a debugger may write: all but RF, VM, VIF and VIP."""
_LINEAR_32: Final = 0xFFFF_FFFF
_SEGMENTS: Final = (("cs", 1), ("ss", 2), ("ds", 3), ("es", 0), ("fs", 4), ("gs", 5))


class Cpu(Protocol):
    """The part of a processor that holds registers."""

    def get(self, name: str) -> int: ...
    def set(self, name: str, value: int) -> None: ...
    def get_segment(self, index: int) -> tuple[int, int, int, int]: ...
    def get_xsave(self) -> bytes: ...
    def set_xsave(self, image: bytes) -> None: ...


class ReadOnlyError(Exception):
    """A debugger tried to write a register that it may not change."""


def _refuse(cpu: Cpu, value: bytes) -> None:
    raise ReadOnlyError


@dataclass(frozen=True, slots=True)
class Register:
    """One register: `read` returns its `bits // 8` bytes, `write` takes them."""

    name: str
    bits: int
    kind: str
    read: Callable[[Cpu], bytes]
    write: Callable[[Cpu, bytes], None] = _refuse


@dataclass(frozen=True, slots=True)
class Feature:
    """A group of registers, as gdb divides them."""

    name: str
    registers: tuple[Register, ...]


def is_canonical(linear: int) -> bool:
    """Return whether bits 63..47 of an address are equal (SDM 1 3.3.7.1)."""
    return linear >> 47 in {0, 0x1FFFF}


# --- registers by name


def _fits(cpu: Cpu, value: int) -> int:
    """Return `value` for a register; ReadOnlyError if the mode has no registers of its size."""
    if value > _LINEAR_32 and code_bits(cpu) != 64:
        raise ReadOnlyError
    return value


def _general(name: str, bits: int = 64, kind: str = "") -> Register:
    """Return a general register, under its own name if it has 64 bits: RAX, else EAX."""

    def read(cpu: Cpu) -> bytes:
        return cpu.get(name).to_bytes(8, "little")[: bits // 8]

    def write(cpu: Cpu, value: bytes) -> None:
        cpu.set(name, _fits(cpu, int.from_bytes(value, "little")))

    shown = name if bits == 64 else f"e{name[1:]}"
    return Register(shown, bits, kind or f"int{bits}", read, write)


def _number(name: str) -> Register:
    """Return one of R8 to R15, which keep their 64 bits where the mode does not have them."""

    def read(cpu: Cpu) -> bytes:
        return cpu.get(name).to_bytes(8, "little")

    def write(cpu: Cpu, value: bytes) -> None:
        cpu.set(name, int.from_bytes(value, "little"))

    return Register(name, 64, "int64", read, write)


def _fixed(name: str, shown: str = "") -> Register:
    """Return a read-only register of 64 bits."""
    return Register(shown or name, 64, "int", lambda cpu: cpu.get(name).to_bytes(8, "little"))


def _address(name: str, shown: str = "", *, of_segment: bool = True) -> Register:
    """Return a base that can be only a canonical address, and of a segment only one of the mode."""

    def read(cpu: Cpu) -> bytes:
        return cpu.get(name).to_bytes(8, "little")

    def write(cpu: Cpu, value: bytes) -> None:
        linear = int.from_bytes(value, "little")
        if not is_canonical(linear):
            raise ReadOnlyError
        if of_segment:
            _fits(cpu, linear)
        cpu.set(name, linear)

    return Register(shown or name, 64, "int", read, write)


def _program_counter(bits: int) -> Register:
    """Return the linear address of the next instruction, as gdb's RIP or EIP."""

    def read(cpu: Cpu) -> bytes:
        return program_counter(cpu).to_bytes(8, "little")[: bits // 8]

    def write(cpu: Cpu, value: bytes) -> None:
        rip = linear = int.from_bytes(value, "little")
        if code_bits(cpu) != 64:
            rip = (_fits(cpu, linear) - cpu.get("cs.base")) & _LINEAR_32
            if rip > cpu.get("cs.limit"):
                raise ReadOnlyError
        elif not is_canonical(linear):
            raise ReadOnlyError
        if rip != cpu.get("rip"):
            # A processor that continues at another address is not halted.
            cpu.set("halted", 0)
        cpu.set("rip", rip)

    return Register("rip" if bits == 64 else "eip", bits, "code_ptr", read, write)


def _read_flags(cpu: Cpu) -> bytes:
    return cpu.get("rflags").to_bytes(8, "little")[:4]


def _write_flags(cpu: Cpu, value: bytes) -> None:
    old = cpu.get("rflags")
    cpu.set("rflags", old & ~_FLAGS | int.from_bytes(value, "little") & _FLAGS)


def _segment(name: str, index: int) -> Register:
    def read(cpu: Cpu) -> bytes:
        return cpu.get_segment(index)[0].to_bytes(4, "little")

    return Register(name, 32, "int32", read)


def _nothing(name: str, bits: int) -> Register:
    """Return a register that only Linux programs have, such as orig_rax; it always reads -1."""
    return Register(name, bits, "int", lambda cpu: b"\xff" * (bits // 8), lambda cpu, value: None)


# --- registers in the XSAVE image (SDM 1 13.4)


def _image(cpu: Cpu, part: int) -> bytearray:
    """Return the image with component `part` in it, even if that is in its initial state."""
    image = bytearray(cpu.get_xsave())
    image[_XSTATE_BV] |= part
    return image


def _saved(name: str, at: int, bits: int, kind: str, part: int) -> Register:
    size = bits // 8

    def read(cpu: Cpu) -> bytes:
        return cpu.get_xsave()[at : at + size]

    def write(cpu: Cpu, value: bytes) -> None:
        image = _image(cpu, part)
        image[at : at + size] = value
        cpu.set_xsave(bytes(image))

    return Register(name, bits, kind, read, write)


def _x87(name: str, at: int, size: int) -> Register:
    """Return a register for a field of the FXSAVE image, shown to gdb with 32 bits."""

    def read(cpu: Cpu) -> bytes:
        return cpu.get_xsave()[at : at + size].ljust(4, b"\0")

    def write(cpu: Cpu, value: bytes) -> None:
        image = _image(cpu, _X87)
        image[at : at + size] = value[:size]
        cpu.set_xsave(bytes(image))

    return Register(name, 32, "int", read, write)


def _fixed_x87(name: str, at: int, size: int) -> Register:
    """Return a read-only register that describes the last x87 instruction."""
    return Register(name, 32, "int", _x87(name, at, size).read)


def _read_tags(cpu: Cpu) -> bytes:
    """Return the x87 tag word; the image has one bit per register for it (SDM 1 10.5.1.1)."""
    image = cpu.get_xsave()
    top = image[3] >> 3 & 7
    tags = 0
    for number in range(8):
        if not image[4] >> number & 1:
            tag = 3
        else:
            at = 32 + 16 * (number - top & 7)
            mantissa, sign = struct.unpack("<QH", image[at : at + 10])
            exponent = sign & 0x7FFF
            if exponent == 0 and mantissa == 0:
                tag = 1
            elif exponent in {0, 0x7FFF} or not mantissa >> 63:
                tag = 2
            else:
                tag = 0
        tags |= tag << 2 * number
    return tags.to_bytes(4, "little")


def _write_tags(cpu: Cpu, value: bytes) -> None:
    tags = int.from_bytes(value, "little")
    image = _image(cpu, _X87)
    image[4] = sum((tags >> 2 * number & 3 != 3) << number for number in range(8))
    cpu.set_xsave(bytes(image))


def _write_mxcsr(cpu: Cpu, value: bytes) -> None:
    image = _image(cpu, _SSE)
    bits = int.from_bytes(value, "little") & _MXCSR_BITS
    image[_MXCSR_AT : _MXCSR_AT + 4] = bits.to_bytes(4, "little")
    cpu.set_xsave(bytes(image))


def _mxcsr() -> Register:
    def read(cpu: Cpu) -> bytes:
        return cpu.get_xsave()[_MXCSR_AT : _MXCSR_AT + 4]

    return Register("mxcsr", 32, "i386_mxcsr", read, _write_mxcsr)


_GENERAL: Final = {
    64: (
        *(_general(n) for n in ("rax", "rbx", "rcx", "rdx", "rsi", "rdi")),
        _general("rbp", kind="data_ptr"),
        _general("rsp", kind="data_ptr"),
        *(_number(f"r{n}") for n in range(8, 16)),
    ),
    32: (
        *(_general(n, 32) for n in ("rax", "rcx", "rdx", "rbx")),
        _general("rsp", 32, "data_ptr"),
        _general("rbp", 32, "data_ptr"),
        _general("rsi", 32),
        _general("rdi", 32),
    ),
}


def core(bits: int) -> Feature:
    """Return the registers that every processor has, general ones with `bits` bits."""
    return Feature(
        "org.gnu.gdb.i386.core",
        (
            *_GENERAL[bits],
            _program_counter(bits),
            Register("eflags", 32, "i386_eflags", _read_flags, _write_flags),
            *(_segment(name, index) for name, index in _SEGMENTS),
            *(_saved(f"st{n}", 32 + 16 * n, 80, "i387_ext", _X87) for n in range(8)),
            _x87("fctrl", 0, 2),
            _x87("fstat", 2, 2),
            Register("ftag", 32, "int", _read_tags, _write_tags),
            _fixed_x87("fiseg", 12, 2),
            _fixed_x87("fioff", 8, 4),
            _fixed_x87("foseg", 20, 2),
            _fixed_x87("fooff", 16, 4),
            _fixed_x87("fop", 6, 2),
        ),
    )


def sse(count: int) -> Feature:
    """Return XMM0 and the following, `count` of them, and MXCSR."""
    registers = (_saved(f"xmm{n}", 160 + 16 * n, 128, "vec128", _SSE) for n in range(count))
    return Feature("org.gnu.gdb.i386.sse", (*registers, _mxcsr()))


def linux(bits: int) -> Feature:
    """Return what gdb expects if it debugs a file of Linux."""
    name = "orig_rax" if bits == 64 else "orig_eax"
    return Feature("org.gnu.gdb.i386.linux", (_nothing(name, bits),))


def avx(count: int) -> Feature:
    """Return the upper halves of YMM0 and the following, `count` of them."""
    return Feature(
        "org.gnu.gdb.i386.avx",
        tuple(_saved(f"ymm{n}h", 576 + 16 * n, 128, "uint128", _AVX) for n in range(count)),
    )


SEGMENTS: Final = Feature("org.gnu.gdb.i386.segments", (_address("fs_base"), _address("gs_base")))
"""Only gdb's x86-64 knows it."""

_SYSTEM: Final = (
    *(_fixed(name) for name in ("cr0", "cr2", "cr3", "cr4", "cr8", "efer")),
    _address("kernel_gs_base", "k_gs_base", of_segment=False),
    _fixed("rip", "ip"),
    *(_fixed(f"{name}.base", f"{name}_base") for name in ("cs", "ss", "ds", "es")),
)


def system(bits: int) -> Feature:
    """Return the system registers, and the bases of the segments that no other feature has."""
    bases = () if bits == 64 else (_fixed("fs_base"), _fixed("gs_base"))
    return Feature("org.ringlet.system", (*_SYSTEM, *bases))
