"""Blocks of 16- and 32-bit code compared with another processor, in each mode."""

import pytest

from ringlet.core.state import Exit
from ringlet.debug.compare import Comparer
from ringlet.vcpu.processor import Processor
from tests.unit.debug.short import TO_32_BITS, real, v86
from tests.unit.debug.test_narrow_watch import DS, IN_16_BITS, IN_32_BITS, TO_FLAT, TO_SEGMENTS
from tests.unit.vcpu.narrow_run import START

ROUND = """
        mov $3, %cx
1:      add %cx, %ax
        mov %ax, (%bx)
        loop 1b
        hlt
"""
SIXTEEN = f"""{TO_32_BITS}
        mov $0x30, %eax
        mov %ax, %ds
        ljmp $0x18, $1f - {START}
        .code16
1:      xor %ax, %ax
        mov $0x10, %bx
        {ROUND}
"""
"""In 16-bit protected mode: CS has a base, and DS another."""


class Lying:
    """A processor whose register `name` is wrong in the guest once `at` has been reached."""

    def __init__(self, cpu: Processor, name: str, at: int) -> None:
        self._cpu = cpu
        self._name = name
        self._at = at
        self.get_xsave = cpu.get_xsave
        self.read_linear = cpu.read_linear

    def get(self, name: str) -> int:
        value = self._cpu.get(name)
        lies = name == self._name and self._cpu.get("rip") == self._at
        return value ^ 1 if lies else value


def compared(p: Processor) -> Comparer:
    """Run to the HLT, and return what has compared all blocks; none may differ."""
    said: list[str] = []
    comparer = Comparer(p, 3, said.append)
    p.watch_blocks(0, comparer.begins)
    assert p.run() == Exit.EXIT_HLT
    assert said == []
    return comparer


@pytest.mark.parametrize("code", [c for c, *_ in IN_16_BITS if not c.startswith("int")])
def test_real_mode(code: str) -> None:
    assert compared(real(f"{TO_SEGMENTS}\n{code}\nnop\n1: nop\nhlt\n")).compared >= 4


@pytest.mark.parametrize("code", [c for c, *_ in IN_32_BITS if c != "ret"])
def test_protected_mode(code: str) -> None:
    p = real(f"{TO_FLAT}\n{code}\nnop\n1: nop\nhlt\n")
    p.set("cr4", 0x600)

    assert compared(p).compared >= 3


def test_16_bit_protected_mode() -> None:
    p = real(SIXTEEN)

    assert compared(p).compared >= 6
    assert p.read_phys(0x20010, 2) == b"\x06\x00"


def test_virtual_8086_mode() -> None:
    p = v86(f".code16\nmov $0x10, %bx\nxor %ax, %ax\n{ROUND}", DS)
    said: list[str] = []
    comparer = Comparer(p, 3, said.append)
    p.watch_blocks(0, comparer.begins)

    assert p.run() == Exit.EXIT_SHUTDOWN  # HLT raises #GP, and there is no IDT

    assert said == []
    assert comparer.compared >= 3
    assert p.read_phys(DS + 0x10, 2) == b"\x06\x00"


def test_offsets_wrap_around() -> None:
    code = "mov $0xFFFE, %bx\nmov $0x1234, %ax\nmov %ax, 4(%bx)\nmov 2(%bx,%si), %cx\nnop\nhlt\n"
    p = real(f"{TO_SEGMENTS}\n{code}")

    assert compared(p).compared >= 5
    assert p.read_phys(DS + 2, 2) == b"\x34\x12"


def test_access_beyond_the_limit_is_not_compared() -> None:
    """The reference has no limits; the guest's handler is at the block's own end."""
    p = real(f"""{TO_32_BITS}
        mov $0x30, %eax
        mov %ax, %ds
        mov $1, %ecx
        movl $5, 0x1000
        jmp handler
    """)
    comparer = compared(p)

    assert comparer.passed_over > 0
    assert p.read_phys(0x21000, 4) == bytes(4)


@pytest.mark.parametrize(
    ("source", "name", "at", "says"),
    [
        (".code16\nnop\nmov $5, %bx\nadd %bx, %ax\nout %al, $0x80\nhlt\n", "rbx", START + 6,
         "reference at CS:IP 0000:1001 (linear 0x1001), mov bx,5: ebx is 0x4, not 0x5"),
        (TO_32_BITS + "mov $7, %ebp\nmov %ebp, %edx\nout %al, $0x80\nhlt\n", "rdx", START + 0x117,
         "at CS:EIP 0008:00001115 (linear 0x1115), mov edx,ebp: edx is 0x6, not 0x7"),
    ],
)  # fmt: skip
def test_wrong_result_is_named_with_its_place(
    source: str, name: str, at: int, says: str
) -> None:
    p = real(source)
    said: list[str] = []
    p.watch_blocks(0, Comparer(Lying(p, name, at), 3, said.append).begins)
    p.attach_ports(lambda port, size: 0, lambda port, size, value: None)

    assert p.run() == Exit.EXIT_HLT

    assert said[0].partition(" (in the block")[0].endswith(says), said


@pytest.mark.parametrize(
    "code",
    ["inc %eax", "dec %cx", "mov 0x20004, %eax", "mov %al, 0x20004", "pusha", "popa", "aaa", "daa",
     "aam", "aad", "das", "aas", "inc %eax\naaa\ninc %bx"],
)  # fmt: skip
def test_instructions_that_64_bit_code_lacks(code: str) -> None:
    p = real(f"{TO_FLAT}\nmov $0x107, %eax\n{code}\nmov %eax, %esi\nhlt\n")
    comparer = compared(p)

    assert comparer.compared >= 4


def test_loop_to_what_the_reference_lacks() -> None:
    """The loop's head is a repeated string instruction, at which the prediction ends."""
    p = real(f"""{TO_FLAT}
        mov $3, %edx
1:      rep stosb
        inc %ebp
        dec %edx
        jnz 1b
        hlt
    """)
    assert compared(p).passed_over > 0


def test_long_loop_counts_as_the_reference_does() -> None:
    p = real(f"{TO_FLAT}\nmov $500, %edx\n1: inc %ebp\nxor %edx, %eax\ndec %edx\njne 1b\nhlt\n")

    assert compared(p).compared >= 5
