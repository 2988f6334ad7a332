"""`--trace`, `--compare` and the last line of a run, for guests of 16- and 32-bit code."""

from pathlib import Path

import pytest

from ringlet.cli.main import main
from tests.guests.assembled import flat, linked, needs_assembler
from tests.guests.build_guest import GUESTS

pytestmark = [needs_assembler, pytest.mark.timeout(60)]

# A line of each mode that the guest goes through.
LINES = (
    "block 0 07c0:0000 7c00 sp fffe cr3 0: mov ax,1111h",
    "block 0 0008:00007c2c 7c2c esp 7000 cr3 0: mov eax,10h",
    "block 0 7c8c rsp 7000 cr3 10000: mov rax,123456789ABCDEF0h",
    "block 0 0008:00007ca2 7ca2 esp 7000 cr3 10000: mov esp,7000h",
    "block 0 0020:7cd0 7cd0 sp 7000 cr3 10000: mov ax,28h",
    "block 0 07c0:00e5 7ce5 sp 7000 cr3 10000: mov al,2",
)

# A handler at 0000:0000, where an event without a vector leads.
HALT_AT_4 = "xor %ax, %ax; mov %ax, %ds; movb $0xf4, 4;"
NO_BIOS = "handler: its vector is 0000:0000, and there is no BIOS\n"


def test_guest_of_all_modes_is_traced_and_compared(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    image = flat((GUESTS / "debug/modes.s").read_text(), tmp_path, start=0x7C00, bits=64)
    trace = tmp_path / "trace"

    status = main(["run", "--bare", str(image), "--flat", "16@07C0:0000", "--trace", str(trace),
                   "--compare", "3"])  # fmt: skip

    said = capfd.readouterr().err
    assert (status, "differs" in said) == (5, False)
    assert int(said.partition("ringlet: ")[2].partition(" blocks compared")[0]) >= 20
    found = trace.read_text().splitlines()
    assert [line for line in LINES if line not in found] == []


@pytest.mark.parametrize(
    ("place", "code", "says", "status"),
    [
        ("16@1000:0010", "hlt", "the guest halted at CS:IP 1000:0011 (linear 0x10011)", 4),
        ("16@1000:0010", "lidt %cs:1f - 0x10\nud2\n1: .word 0\n.long 0",
         "the guest's processor shut down at CS:IP 1000:", 3),
        ("32@0x123400", "hlt", "the guest halted at CS:EIP 0008:00123401 (linear 0x123401)", 4),
        ("32@0x123400", "ud2", "shut down at CS:EIP 0008:00123400 (linear 0x123400)", 3),
        ("32@0x123400", "jmp 0x80000000 - 0x123400 + 1f\n1:",
         "the guest cannot go on at CS:EIP 0008:8", 5),
        ("64@0x123400", "hlt", "the guest halted at RIP 0x123401", 4),
        ("16@1000:0010", f"{HALT_AT_4} ud2", f"; before, #UD had no {NO_BIOS}", 4),
        ("16@1000:0010", f"{HALT_AT_4} int $0x10", f"; before, INT 10h had no {NO_BIOS}", 4),
        ("16@1000:0010", "int $0x10", f"; before, INT 10h had no {NO_BIOS}", 124),
    ],
)  # fmt: skip
def test_last_line_names_the_place(
    place: str, code: str, says: str, status: int, tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    bits = int(place[:2])
    image = flat(f".code{bits}\n{code}\n", tmp_path, start=0, bits=bits)

    assert main(["run", "--bare", str(image), "--flat", place, "--timeout", "2s"]) == status

    assert says in capfd.readouterr().err


def test_program_that_ends_wrongly(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    program = linked(".code32\nnop\nud2\n", tmp_path)

    assert main(["run", "--bare", str(program)]) == 3

    assert "at CS:EIP 0008:00100001 (linear 0x100001)" in capfd.readouterr().err
