"""The real gdb on a 32-bit program of a 64-bit Linux guest."""

import re
from pathlib import Path

import pytest

from tests.guests.assembled import linked, needs_assembler
from tests.guests.gdb_session import Session, needs_gdb

pytestmark = [
    needs_gdb, needs_assembler, pytest.mark.timeout(300), pytest.mark.usefixtures("kernel"),
]  # fmt: skip

PROGRAM = """
        .code32
        call middle
        mov $1, %eax                    # exit(5)
        mov $5, %ebx
        int $0x80
        .type middle, @function
middle: push %ebp
        mov %esp, %ebp
        push $7
        call leaf
        leave
        ret
        .size middle, . - middle
        .type leaf, @function
leaf:   push %ebp
        mov %esp, %ebp
        mov 8(%ebp), %ecx
        pop %ebp
        ret
        .size leaf, . - leaf
"""


def test_program_of_32_bits_under_a_kernel_of_64_bits(tmp_path: Path) -> None:
    # Linux maps the file page by page, and the code is at its offset 54h.
    program = linked(PROGRAM, tmp_path, start=0x8048054)
    session = Session(
        ["-v", f"{tmp_path}:/mnt", "busybox", "/mnt/image.elf"],
        program,
        before=["define hook-stop\nunset tdesc filename\nend"],
    )
    try:
        assert "i386:x86-64" in session.ask("show architecture")
        session.ask("hbreak leaf")
        assert "leaf ()" in session.ask("continue")
        assert "compatibility mode (32-bit code), CPL 3" in session.ask("monitor mode")
        assert re.search(r"#0 .*leaf \(\)\n#1 .*middle \(\)\n#2 ", session.ask("bt"))
        before = session.ask("print/x $pc")
        session.ask("stepi")
        assert session.ask("print/x $pc").partition("=")[2] != before.partition("=")[2]
        session.ask("finish")
        assert "ecx            0x7 " in session.ask("info registers ecx")
        session.ask("delete")
        session.ask("detach")
        assert session.ends()[1] == 5
    finally:
        session.close()
