"""Watchpoints, and the guest's own data breakpoints, in 16- and 32-bit code."""

import pytest

from ringlet.core.state import Exit
from ringlet.machine.place import program_counter
from ringlet.vcpu.debug.stops import DebugReason
from ringlet.vcpu.processor import Processor
from tests.unit.debug.short import TO_32_BITS, real

READS, WRITES = 1, 2
DS, ES, SS, FS = 0x20000, 0x28000, 0x30000, 0x38000
TO_SEGMENTS = f"""
        .code16
        mov ${DS >> 4:#x}, %ax
        mov %ax, %ds
        mov ${ES >> 4:#x}, %ax
        mov %ax, %es
        mov ${SS >> 4:#x}, %ax
        mov %ax, %ss
        mov ${FS >> 4:#x}, %ax
        mov %ax, %fs
        mov $0x100, %sp
        mov $0x40, %bx
        mov $0x50, %bp
        mov $6, %si
        mov $8, %di
        mov $5, %ax
        mov $2, %cx
"""
TO_FLAT = f"""{TO_32_BITS}
        mov $0x30, %eax
        mov %ax, %fs
        mov ${SS + 0x100:#x}, %esp
        mov ${DS + 0x40:#x}, %ebx
        mov ${SS + 0x50:#x}, %ebp
        mov ${DS + 6:#x}, %esi
        mov ${DS + 8:#x}, %edi
        mov $5, %eax
        mov $2, %ecx
"""

IN_16_BITS = [
    ("mov %ax, 4", DS + 4, WRITES),
    ("mov 4, %ax", DS + 4, READS),
    ("mov %ax, %fs:4", FS + 4, WRITES),
    ("mov %ax, 2(%bx,%si)", DS + 0x48, WRITES),
    ("mov %ax, (%bp)", SS + 0x50, WRITES),
    ("mov %ds:(%bp,%di), %ax", DS + 0x58, READS),
    ("mov %ax, -0x44(%bx)", DS + 0xFFFC, WRITES),
    ("movl $1, (%ebx,%esi,8)", DS + 0x70, WRITES),
    ("push %ax", SS + 0xFE, WRITES),
    ("pushl %eax", SS + 0xFC, WRITES),
    ("pop %ax", SS + 0x100, READS),
    ("pushw (%bx)", DS + 0x40, READS),
    ("pushw (%bx)", SS + 0xFE, WRITES),
    ("popw (%bx)", DS + 0x40, WRITES),
    ("pushf", SS + 0xFE, WRITES),
    ("pusha", SS + 0xF0, WRITES),
    ("call 1f", SS + 0xFE, WRITES),
    ("lcall $0, $1f", SS + 0xFC, WRITES),
    ("leave", SS + 0x50, READS),
    ("enter $4, $0", SS + 0xFE, WRITES),
    ("xlatb", DS + 0x45, READS),
    ("lodsb", DS + 6, READS),
    ("stosw", ES + 8, WRITES),
    ("movsb", DS + 6, READS),
    ("rep movsb", ES + 9, WRITES),
    ("bts %ax, (%bx)", DS + 0x40, WRITES),
    ("bt %di, (%bx)", DS + 0x40, READS),
    ("fnstcw 2(%bx)", DS + 0x42, WRITES),
    ("les (%bx), %ax", DS + 0x42, READS),
    ("int $3", SS + 0xFA, WRITES),
]
IN_32_BITS = [
    ("mov %eax, 0x20004", DS + 4, WRITES),
    ("mov 0x20004, %al", DS + 4, READS),
    ("mov %eax, %fs:0x10", DS + 0x10, WRITES),
    ("mov %eax, 2(%ebx,%eax,4)", DS + 0x56, WRITES),
    ("mov %eax, (%ebp)", SS + 0x50, WRITES),
    ("push $1", SS + 0xFC, WRITES),
    ("pushw $1", SS + 0xFE, WRITES),
    ("pop 4(%esp)", SS + 0x108, WRITES),
    ("pushf", SS + 0xFC, WRITES),
    ("pusha", SS + 0xE0, WRITES),
    ("call 1f", SS + 0xFC, WRITES),
    ("ret", SS + 0x100, READS),
    ("leave", SS + 0x50, READS),
    ("rep stosb", DS + 9, WRITES),
    ("cmpsb", DS + 6, READS),
    ("bts %esi, (%ebx)", DS + 0x40 + (DS + 6 >> 5) * 4, WRITES),
    ("movups %xmm0, 1(%ebx)", DS + 0x50, WRITES),
    ("cmpxchg8b (%ebx)", DS + 0x47, WRITES),
]


def go(p: Processor) -> int:
    """Run on without a step."""
    p.debug_go(step=False, skip=False)
    return int(p.run())


def watched(p: Processor, address: int, kinds: int) -> bool:
    """Return whether a watchpoint stops the guest; one behind it must not."""
    p.set_watchpoints([(address, 1, kinds), (0x3FFF00, 1, 3)])
    return go(p) == Exit.EXIT_DEBUG and p.debug_stop() == (DebugReason.DEBUG_WATCHPOINT, 1)


@pytest.mark.parametrize(("code", "address", "kinds"), IN_16_BITS)
def test_access_in_real_mode(code: str, address: int, kinds: int) -> None:
    assert watched(real(f"{TO_SEGMENTS}\n{code}\n1: hlt\n"), address, kinds)


@pytest.mark.parametrize(("code", "address", "kinds"), IN_32_BITS)
def test_access_in_protected_mode(code: str, address: int, kinds: int) -> None:
    p = real(f"{TO_FLAT}\n{code}\n1: hlt\n")
    p.set("cr4", 0x600)

    assert watched(p, address, kinds)


@pytest.mark.parametrize(
    ("code", "address", "kinds"),
    [
        ("mov %ax, 4", DS + 6, WRITES),
        ("mov %ax, 4", 4, WRITES),
        ("mov 4, %ax", DS + 4, WRITES),
        ("push %ax", SS + 0x100, WRITES),
        ("push %ax", SS + 0xFC, WRITES),
        ("lea (%bx), %ax", DS + 0x40, READS),
        ("stosb", DS + 8, WRITES),
    ],
)
def test_access_elsewhere(code: str, address: int, kinds: int) -> None:
    p = real(f"{TO_SEGMENTS}\n{code}\n1: hlt\n")
    p.set_watchpoints([(address, 1, kinds)])

    assert go(p) == Exit.EXIT_HLT


@pytest.mark.parametrize("code", ["mov %ax, 4", "push %ax", "stosw"])
def test_own_breakpoint_of_a_real_mode_guest(code: str) -> None:
    """The guest's #DB handler, INT 1 of the vector table, counts."""
    addresses = {"mov %ax, 4": DS + 4, "push %ax": SS + 0xFE, "stosw": ES + 8}
    p = real(f"""
        .code16
        movw $handler, 4
        movw $0, 6
        movl ${addresses[code]:#x}, %eax
        mov %eax, %dr0
        mov $0x10001, %eax                  # writes of a byte
        mov %eax, %dr7
        {TO_SEGMENTS}
        {code}
        nop
        hlt
handler:
        mov $0xdb, %dx
        iret
    """)
    assert p.run() == Exit.EXIT_HLT

    assert p.get("rdx") == 0xDB
    assert p.get("dr6") & 0xF == 1


# --- steps

# Each leads to the NOP behind it.
STEPS_16 = [code for code, *_ in IN_16_BITS if "1f" not in code and not code.startswith("int")]
STEPS_32 = [code for code, *_ in IN_32_BITS if "1f" not in code and code != "ret"]
MORE_16 = [
    "call 1f\n1:", "lcall $0, $1f\n1:", "jmp 1f\n1:", "ljmp $0, $1f\n1:", "loop 1f\n1:",
    "jcxz 1f\n1:", "popa", "popf", "cli", "sti", "mov %ax, %gs", "mov %cr0, %eax", "aaa", "daa",
    "in $0x80, %al", "outsb", "cpuid", "sgdt (%bx)", "smsw %ax", "fninit",
    "mov $1f, %ax\njmp *%ax\n1:", "lock incw (%bx)", "scasb", "repne scasb", "lahf", "sahf",
]  # fmt: skip


def between(first: str, code: str) -> str:
    """Return a program with `code` at 1800h, which goes on at 1F00h."""
    return f"{first}\n.org 0x800, 0x90\n{code}\njmp last\n.org 0xf00, 0x90\nlast: nop\nhlt\n"


def stepped_through(p: Processor, code_at: int) -> int:
    """Step from `code_at` to the NOP at 1F00h, and return the number of steps."""
    p.set_breakpoints([code_at])
    assert go(p) == Exit.EXIT_DEBUG
    for number in range(40):
        if program_counter(p) == 0x1F00:
            return number
        p.debug_go(step=True, skip=True)
        assert p.run() == Exit.EXIT_DEBUG
        assert p.debug_stop() == (DebugReason.DEBUG_STEPPED, 0)
    return 0


@pytest.mark.parametrize("code", [*STEPS_16, *MORE_16])
def test_steps_in_real_mode(code: str) -> None:
    """The instructions behind it are NOPs and a jump."""
    p = real(between(TO_SEGMENTS, code))
    p.attach_ports(lambda port, size: 0, lambda port, size, value: None)

    assert stepped_through(p, 0x1800) in {2, 3, 4}


@pytest.mark.parametrize("code", STEPS_32)
def test_steps_in_protected_mode(code: str) -> None:
    p = real(between(TO_FLAT, code))
    p.set("cr4", 0x600)

    assert stepped_through(p, 0x1800) in {2, 3}


def test_step_of_an_interrupt_ends_at_its_handler() -> None:
    p = real(".code16\nmovw $handler, 0x84\nmovw $0, 0x86\nhere: int $0x21\nhlt\n"
             "handler: iret\n")  # fmt: skip
    p.set_breakpoints([0x100C])
    assert go(p) == Exit.EXIT_DEBUG

    found = []
    for _ in range(2):
        p.debug_go(step=True, skip=True)
        assert p.run() == Exit.EXIT_DEBUG
        found.append(program_counter(p))

    assert found == [0x100F, 0x100E]


def test_step_of_an_exception_ends_at_its_handler() -> None:
    p = real(".code16\nmovw $handler, 0\nmovw $0, 2\nxor %bx, %bx\ndiv %bx\nhlt\nhandler: iret\n")
    p.set_breakpoints([0x100E])
    assert go(p) == Exit.EXIT_DEBUG
    p.debug_go(step=True, skip=True)

    assert p.run() == Exit.EXIT_DEBUG
    assert p.debug_stop() == (DebugReason.DEBUG_STEPPED, 0)
    assert program_counter(p) == 0x1011
