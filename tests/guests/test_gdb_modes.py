"""The real gdb on guests of 16- and 32-bit code, and on one that changes its mode."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.guests.assembled import flat, linked, needs_assembler
from tests.guests.build_guest import GUESTS
from tests.guests.gdb_session import Session, needs_gdb

pytestmark = [needs_gdb, needs_assembler, pytest.mark.timeout(120)]

MODES = GUESTS / "debug/modes.s"
FOLLOW = ["define hook-stop\nunset tdesc filename\nend"]
"""What docs/gdb.md advises for guests that change their mode."""


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The boot sector; its symbols are in image.elf beside it."""
    directory = tmp_path_factory.mktemp("modes")
    return flat(MODES.read_text(), directory, start=0x7C00, bits=64)


def boot(image: Path, file: Path | None, before: list[str]) -> Session:
    return Session(["--bare", image, "--flat", "16@07C0:0000"], file, before=before)


@pytest.fixture
def boot_sector(image: Path) -> Iterator[Session]:
    """No symbols, and a gdb that knows nothing of the guest."""
    session = boot(image, None, [])
    yield session
    session.close()


@pytest.fixture
def followed(image: Path) -> Iterator[Session]:
    """With symbols, and a gdb that follows the mode."""
    session = boot(image, image.with_suffix(".elf"), FOLLOW)
    yield session
    session.close()


def said(session: Session, command: str) -> str:
    """Return gdb's answer without its prompts."""
    return session.ask(command).replace("(gdb) ", "").strip()


def code(session: Session) -> str:
    """Return the instruction at which gdb is."""
    return " ".join(said(session, "x/i $pc").split())


def value(session: Session, what: str) -> int:
    """Return the value of an expression."""
    return int(said(session, f"print/x {what}").partition("=")[2], 16)


def go_to(session: Session, name: str) -> None:
    """Run to a symbol."""
    session.ask(f"tbreak *{name}")
    assert re.search(r"Temporary breakpoint \d+, ", session.ask("continue"))


# --- real mode


def test_boot_sector_is_disassembled_as_16_bit_code(boot_sector: Session) -> None:
    assert code(boot_sector) == "=> 0x7c00: mov $0x1111,%ax"
    assert [value(boot_sector, f"${name}") for name in ("pc", "ip", "cs", "cs_base")] == [
        0x7C00, 0, 0x7C0, 0x7C00,
    ]  # fmt: skip


def test_breakpoint_in_the_boot_sector_is_linear(boot_sector: Session) -> None:
    boot_sector.ask("break *0x7c28")

    assert "Breakpoint 1, 0x00007c28" in boot_sector.ask("continue")
    assert code(boot_sector) == "=> 0x7c28: mov $0x2222,%bx"
    assert value(boot_sector, "$ip") == 0x28


def test_steps_of_the_boot_sector(boot_sector: Session) -> None:
    boot_sector.ask("stepi")
    assert value(boot_sector, "$ax") == 0x1111
    boot_sector.ask("stepi")
    assert value(boot_sector, "$pc") == 0x7C28
    boot_sector.ask("stepi 2")

    assert (value(boot_sector, "$pc"), value(boot_sector, "$bx")) == (0x7C06, 0x2222)


def test_stack_of_the_boot_sector(boot_sector: Session) -> None:
    boot_sector.ask("stepi 2")

    assert "0x0006" in boot_sector.ask("x/hx $ss_base + $sp")


def test_monitor_shows_the_segments(boot_sector: Session) -> None:
    shown = boot_sector.ask("monitor segments")

    assert "real mode, CPL 0" in shown
    assert "cs   07c0  base 00007c00  limit 0000ffff" in shown


def test_boot_sector_runs_on(boot_sector: Session) -> None:
    assert "exited with code 05" in boot_sector.ask("continue")
    assert boot_sector.ends()[1] == 5


# --- through all modes and back


def test_gdb_follows_the_mode(followed: Session) -> None:
    assert code(followed) == "=> 0x7c00 <start>: mov $0x1111,%ax"
    go_to(followed, "protected")
    assert "mov $0x10,%eax" in code(followed)
    assert value(followed, "$cs") == 8
    go_to(followed, "sixty_four")
    assert "movabs $0x123456789abcdef0,%rax" in code(followed)
    followed.ask("stepi 2")
    assert value(followed, "$r15") == 0x123456789ABCDEF0
    go_to(followed, "compatible")
    assert "mov $0x7000,%esp" in code(followed)
    assert "compatibility mode (32-bit code)" in followed.ask("monitor mode")
    go_to(followed, "sixty_four_again")
    assert value(followed, "$r15") == 0x123456789ABCDEF0
    go_to(followed, "sixteen")
    assert "mov $0x28,%ax" in code(followed)
    go_to(followed, "real_again")
    assert "real mode" in followed.ask("monitor mode")
    assert code(followed).endswith("mov $0x2,%al")
    assert "exited with code 05" in followed.ask("continue")


def test_steps_across_the_switches(followed: Session) -> None:
    go_to(followed, "to_protected")
    assert "ljmpl $0x8,$0x7c2c" in code(followed)
    followed.ask("stepi")
    assert "<protected>: mov $0x10,%eax" in code(followed)
    go_to(followed, "to_long")
    followed.ask("stepi")
    assert "<sixty_four>: movabs" in code(followed)
    followed.ask("stepi 5")
    assert "<compatible>: mov $0x7000,%esp" in code(followed)


@pytest.mark.parametrize("caller", ["protected", "compatible"])
def test_32_bit_code_has_frames(followed: Session, caller: str) -> None:
    """In protected mode, and under a kernel of 64-bit code."""
    go_to(followed, caller)
    followed.ask("tbreak leaf")

    assert "leaf ()" in followed.ask("continue")
    frames = followed.ask("bt 3")
    assert re.search(rf"#0 .*leaf \(\)\n#1 .*middle \(\)\n#2 .*{caller} \(\)", frames)
    assert "7" in followed.ask("x/wd $ebp + 8")
    assert "in middle ()" in followed.ask("finish")
    registers = said(followed, "info registers")
    assert registers.startswith("eax ")
    assert "ecx            0x7 " in registers


def test_watchpoint_in_32_bit_code(followed: Session) -> None:
    go_to(followed, "protected")
    followed.ask(f"watch *(int *){value(followed, '&counter'):#x}")

    assert "New value = 7" in followed.ask("continue")
    assert "<leaf+12>: pop %ebp" in code(followed)


def test_gdb_is_told_of_another_mode_on_request(image: Path) -> None:
    """Without a hook gdb keeps the registers that it has, and breakpoints still hold."""
    session = boot(image, image.with_suffix(".elf"), [])
    try:
        go_to(session, "sixty_four")
        assert value(session, "$pc") == value(session, "&sixty_four")
        session.ask("unset tdesc filename")
        session.ask("stepi")
        assert value(session, "$rax") == 0x123456789ABCDEF0
        go_to(session, "compatible")
        assert value(session, "$rsp") == 0x7000
        session.ask("unset tdesc filename")
        assert "mov $0x7000,%esp" in code(session)
        assert said(session, "info registers").startswith("eax ")
    finally:
        session.close()


def test_registers_written_in_each_mode(followed: Session) -> None:
    followed.ask("set $ax = 0x4321")
    followed.ask("set $pc = 0x7c03")
    assert (value(followed, "$ip"), value(followed, "$eax")) == (3, 0x4321)
    assert "Could not write register" in followed.ask("set $pc = 0x20000")
    go_to(followed, "compatible")
    followed.ask("set $pc = to_sixty_four_again")
    followed.ask("set $esi = 0x89abcdef")
    go_to(followed, "sixty_four_again")
    assert value(followed, "$rsi") == 0x89ABCDEF
    followed.ask("set $rdi = 0x1122334455667788")
    assert value(followed, "$rdi") == 0x1122334455667788


# --- a program of 32 bits


PROGRAM = """
        .code32
        mov $1, %eax
        call middle
        mov $2, %al
        out %al, $0xf4
        hlt
        .type middle, @function
middle: push %ebp
        mov %esp, %ebp
        incl counter
        leave
        ret
counter:
        .long 41
"""


def test_program_of_32_bits(tmp_path: Path) -> None:
    program = linked(PROGRAM, tmp_path)
    session = Session(["--bare", program], program)
    try:
        assert code(session) == "=> 0x100000: mov $0x1,%eax"
        session.ask("break middle")
        assert "middle ()" in session.ask("continue")
        assert re.search(r"#0 .*middle \(\)\n#1 .*0x0010000a", session.ask("bt 2"))
        session.ask("watch *(int *)&counter")
        assert "New value = 42" in session.ask("continue")
        assert said(session, "info registers eip").startswith("eip ")
        session.ask("delete")
        assert "exited with code 05" in session.ask("continue")
    finally:
        session.close()


# --- a kernel of 64 bits that is entered in protected mode


KERNEL = """
        .code32
entry:
        lgdt gdtr
        movl $0x11003, 0x10000          # 0 and FFFFFFFF80000000h are the first 2 MiB
        movl $0x11003, 0x10ff8
        movl $0x12003, 0x11000
        movl $0x12003, 0x11ff0
        movl $0x83, 0x12000
        mov $0x20, %eax
        mov %eax, %cr4
        mov $0x10000, %eax
        mov %eax, %cr3
        mov $0xC0000080, %ecx
        mov $0x100, %eax
        xor %edx, %edx
        wrmsr
        mov $0x80000011, %eax
        mov %eax, %cr0
        ljmp $0x08, $low
        .code64
low:    movabs $high, %rax
        jmp *%rax
there:  mov $0x77, %edi
        cli
        hlt
        .globl high
        .set high, there + 0xffffffff80000000
        .balign 8
gdt:    .quad 0, 0x00AF9B000000FFFF
gdtr:   .word 15
        .long gdt
        .section .note.pvh, "a", @note
        .long 4, 4, 18
        .asciz "Xen"
        .long entry
"""


def test_kernel_of_64_bits_that_begins_in_32_bits(tmp_path: Path) -> None:
    """Its symbols are beyond 32 bits, so gdb has 64-bit registers before the processor has them."""
    kernel = linked(KERNEL, tmp_path, bits=64)
    session = Session(["--kernel", kernel, "-m", "32M"], kernel)
    try:
        assert "i386:x86-64" in session.ask("show architecture")
        session.ask("monitor bits mode")
        session.ask("unset tdesc filename")
        assert "lgdtl" in code(session)
        session.ask("monitor bits auto")
        session.ask("unset tdesc filename")
        go_to(session, "high")
        assert value(session, "$pc") >> 20 == 0xFFFFFFFF801
        session.ask("stepi")
        assert value(session, "$rdi") == 0x77
    finally:
        session.close()


def test_breakpoint_that_gdb_cannot_name_is_a_trap(tmp_path: Path) -> None:
    """gdb has 32-bit registers, and is told not to cut addresses."""
    kernel = linked(KERNEL, tmp_path, bits=64)
    session = Session(["--kernel", kernel, "-m", "32M"], kernel)
    try:
        session.ask("set remoteaddresssize 64")
        session.ask("monitor bits mode")
        session.ask("unset tdesc filename")
        session.ask("break *high")
        assert "SIGTRAP" in session.ask("continue")
        session.ask("unset tdesc filename")
        assert "mov $0x77,%edi" in code(session)
    finally:
        session.close()
