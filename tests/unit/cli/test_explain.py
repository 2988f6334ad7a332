"""`ringlet explain`: its options and its refusals."""

import json
import subprocess
from pathlib import Path

import pytest

from ringlet.cli.main import main

CODE = "48 8b 07 c3"


def test_bytes(capsys: pytest.CaptureFixture[str]) -> None:
    status = main(["explain", "--hex", CODE])

    out = capsys.readouterr().out
    assert status == 0
    assert out.startswith("hex: 4 bytes, CPL 0, 1 fragment\n")
    assert "\x1b" not in out


def test_linear_address_and_privilege(capsys: pytest.CaptureFixture[str]) -> None:
    main(["explain", "--hex", CODE, "--at", "0xffffffff81000000", "--cpl", "3"])

    out = capsys.readouterr().out
    assert "CPL 3" in out
    assert "fragment 0xffffffff81000000" in out


def test_no_speculate(capsys: pytest.CaptureFixture[str]) -> None:
    main(["explain", "--hex", "48 8b 07 31 c0", "--no-speculate"])

    assert "miss" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--bits", "16"], ["hex: 4 bytes, 16-bit code, CPL 0", "fragment 0x7c00", "dec ax",
                            "mov ax, [bx]", "state.paragraph_at.ds"]),
        (["--bits", "16", "--no-segmented"], ["mov ax, [bx]", "mov ax, [r10 + r9]"]),
        (["--bits", "32"], ["32-bit code", "fragment 0x401000", "dec eax",
                            "mov eax, [r10 + rdi]"]),
        (["--bits", "32", "--segmented"], ["mov eax, [edi]", "state.segment_read.ds"]),
        (["--bits", "64"], ["hex: 4 bytes, CPL 0", "mov rax, [rdi]"]),
    ],
)  # fmt: skip
def test_size_of_the_code(
    arguments: list[str], says: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", "--hex", CODE, *arguments]) == 0

    out = capsys.readouterr().out
    assert [text for text in says if text not in out] == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--bits", "8"], "--bits 8: code has 16, 32 or 64 bits"),
        (["--bits", "16", "--at", "0x10000"], "--at 0x10000: out of range"),
        (["--bits", "16", "--at", "1000:0"], "16-bit code cannot be at 0x10000; give --at"),
        (["--bits", "16", "--at", "7c0:x"], "--at 7c0:x: give an address, or SEGMENT:OFFSET"),
        (["--bits", "32", "--at", "7c0:0"], "--at 7c0:0: not a number"),
        (["--bits", "32", "--at", "0x100000000"], "--at 0x100000000: out of range"),
    ],
)
def test_size_and_address_that_do_not_fit(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", "--hex", CODE, *arguments]) == 2

    assert says in capsys.readouterr().err


def test_function_of_a_32_bit_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its size of code is the file's; as 16-bit code, it needs an address."""
    made = tmp_path / "made"
    subprocess.run(
        ["as", "--32", "-o", f"{made}.o", "-"], check=True,
        input=b".globl f\n.type f, @function\nf: inc %eax\nret\n.size f, 2\n",
    )  # fmt: skip
    subprocess.run(
        ["ld", "-m", "elf_i386", "-e", "f", "-Ttext=0x8048000", "-o", made, f"{made}.o"], check=True
    )

    assert main(["explain", f"{made}:f"]) == 0
    out = capsys.readouterr().out
    assert "2 bytes, 32-bit code, CPL 0, 1 fragment" in out
    assert "8048000  inc eax" in out
    assert main(["explain", f"{made}:f", "--bits", "16"]) == 2
    assert "16-bit code cannot be at 0x8048000" in capsys.readouterr().err
    assert main(["explain", f"{made}:f", "--bits", "16", "--at", "0x100"]) == 0
    assert "100  inc ax" in capsys.readouterr().out


@pytest.mark.parametrize("at", ["7c15h", "07c0:0015", "0x7c15"])
def test_addresses_of_16_bit_code(at: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "--hex", "8e d8", "--bits", "16", "--at", at]) == 0
    out = capsys.readouterr().out

    assert "7c15  mov ds, ax" in out
    assert "in real mode the selector, and 16 times the selector" in " ".join(out.split())
    assert "mov [state.ds.selector], r8w" in out
    assert "state + " not in out


def test_segment_loads_of_protected_mode(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "--hex", "8e d8", "--bits", "16", "--no-segmented"]) == 0

    assert "from the guest's descriptors" in " ".join(capsys.readouterr().out.split())


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    main(["explain", "--hex", CODE, "--json"])

    assert json.loads(capsys.readouterr().out)["fragments"][0]["guest_bytes"] == 4


def test_part_of_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "code"
    path.write_bytes(b"\x90\xc3\x90")

    status = main(["explain", "--file", str(path), "--offset", "0x1", "--length", "1"])

    assert status == 0
    assert "ret" in capsys.readouterr().out


def test_symbol(capsys: pytest.CaptureFixture[str]) -> None:
    maps = Path("/proc/self/maps").read_text().split()
    libc = next(word for word in maps if "/libc.so" in word)

    assert main(["explain", f"{libc}:getppid"]) == 0
    assert main(["explain", "--elf", libc, "--symbol", "getppid"]) == 0
    assert capsys.readouterr().out.count("leaves for OP_SYSCALL") == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give one thing to explain"),
        (["--hex", CODE, "--file", "x"], "give one thing to explain"),
        (["/bin/sh"], "give PATH:SYMBOL"),
        (["/bin/sh:"], "give PATH:SYMBOL"),
        (["--symbol", "main"], "--symbol needs a file"),
        (["--elf", "/bin/sh"], "--elf needs a function"),
        (["--hex", "4"], "odd number of digits"),
        (["--hex", "0f"], "is not a whole instruction"),
        (["--hex", CODE, "--cpl", "1"], "give one of them"),
        (["--hex", CODE, "--at", "here"], "not a number"),
        (["--hex", CODE, "--at", "0x10000000000000000"], "out of range"),
        (["--file", "/nowhere", "--length", "1"], "no such file"),
        (["--file", "/bin/sh", "--offset", "-1"], "out of range"),
        (["/nowhere:main"], "no such file"),
    ],
)
def test_mistake_is_one_line_and_status_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status = main(["explain", *arguments])

    captured = capsys.readouterr()
    assert status == 2
    assert captured.out == ""
    assert captured.err.startswith("ringlet: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err
