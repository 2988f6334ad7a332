"""Where a guest's processor is, and in which mode (SDM 3A 2.2): for debuggers and messages.

Outside 64-bit mode the linear address of an instruction is the sum of CS's base and EIP.
"""

from typing import Final, Protocol

from ringlet.core.control_bits import Cr0, Efer
from ringlet.core.state import Key

_LINEAR_32: Final = 0xFFFF_FFFF
_VM: Final = 1 << 17


class Cpu(Protocol):
    """The part of a processor that tells its registers."""

    def get(self, name: str) -> int: ...


def code_bits(cpu: Cpu) -> int:
    """Return 16, 32 or 64: the size of the code segment in which the processor is."""
    key = cpu.get("key")
    if key & Key.KEY_MODE64:
        return 64
    return 16 if key & Key.KEY_MODE16 else 32


def in_long_mode(cpu: Cpu) -> bool:
    """Return whether IA-32e mode is active: 64-bit or compatibility mode."""
    return bool(cpu.get("efer") & Efer.EFER_LMA)


def linear_address(cpu: Cpu, rip: int) -> int:
    """Return the linear address of the code at `rip` of the code segment."""
    return rip if code_bits(cpu) == 64 else (rip + cpu.get("cs.base")) & _LINEAR_32


def program_counter(cpu: Cpu) -> int:
    """Return the linear address of the next instruction."""
    return linear_address(cpu, cpu.get("rip"))


def mode(cpu: Cpu) -> str:
    """Return the name of the processor's mode."""
    bits = code_bits(cpu)
    if not cpu.get("cr0") & Cr0.CR0_PE:
        return "real mode"
    if in_long_mode(cpu):
        return "64-bit mode" if bits == 64 else f"compatibility mode ({bits}-bit code)"
    if cpu.get("rflags") & _VM:
        return "virtual-8086 mode"
    return f"protected mode ({bits}-bit code)"


def place(cpu: Cpu, rip: int) -> str:
    """Return a text for the place of the code at `rip`, such as "RIP 0x401000"."""
    return written(code_bits(cpu), cpu.get("cs.selector"), rip, linear_address(cpu, rip))


def written(bits: int, selector: int, rip: int, linear: int) -> str:
    """Return the text of `place` for these values."""
    match bits:
        case 64:
            return f"RIP {rip:#x}"
        case 32:
            return f"CS:EIP {selector:04x}:{rip:08x} (linear {linear:#x})"
        case _:
            return f"CS:IP {selector:04x}:{rip:04x} (linear {linear:#x})"
