"""The sources of code, and the one-line message for each error."""

import struct
import subprocess
from pathlib import Path

import pytest

from ringlet.errors import ConfigError, ProgramError
from ringlet.explain import source
from ringlet.explain.source import DEFAULT_LINEAR, MAX_BYTES, Code

ASSEMBLY = """
    .globl first
    .type first, @function
    .size first, 3
first: mov %rbx, %rax
second: ret
    nop
third: ud2
    .local lonely
    .type lonely, @function
lonely: hlt
    .data
datum: .quad 5
    .globl datum
    .section .note.GNU-stack
"""


@pytest.fixture(scope="module")
def object_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("elf") / "made.o"
    subprocess.run(["as", "--64", "-o", str(path), "-"], input=ASSEMBLY.encode(), check=True)
    return path


@pytest.fixture(scope="module")
def program(object_file: Path) -> Path:
    path = object_file.with_name("made")
    subprocess.run(
        ["ld", "-e", "first", "-Ttext=0x400000", "-o", str(path), str(object_file)], check=True
    )
    return path


def patched(path: Path, tmp_path: Path, offset: int, data: bytes) -> Path:
    """A copy of a file with other bytes at an offset."""
    made = tmp_path / "patched"
    before = path.read_bytes()
    made.write_bytes(before[:offset] + data + before[offset + len(data) :])
    return made


@pytest.mark.parametrize(
    "text", ["488b07c3", "48 8b 07 c3", "48:8B:07:C3", "0x48, 0x8b, 0x07, 0xc3", "48\n8b07 c3\n"]
)
def test_hexadecimal_in_any_grouping(text: str) -> None:
    assert source.from_hex(text) == Code("hex", DEFAULT_LINEAR, b"\x48\x8b\x07\xc3")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("4", "odd number of digits"),
        ("48 8b 0", "odd number of digits"),
        ("4g", "'g' is not a hexadecimal digit"),
        ("", "no bytes given"),
        (" ", "no bytes given"),
        ("90" * (MAX_BYTES + 1), "too many for a listing"),
    ],
)
def test_bad_hexadecimal(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        source.from_hex(text)


def test_part_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "code"
    path.write_bytes(b"ABCDEFGH")

    code = source.from_file(path, 2, 3, 0x5000)

    assert code == Code(f"{path}+0x2", 0x5000, b"CDE")
    assert source.from_file(path, 6, None).data == b"GH"


@pytest.mark.parametrize(
    ("offset", "length", "message"),
    [
        (8, 1, "has 8 bytes"),
        (-1, 1, "has 8 bytes"),
        (0, 0, "give a positive number"),
        (4, 5, "has only 4 bytes from offset 0x4"),
    ],
)
def test_part_beyond_a_file(tmp_path: Path, offset: int, length: int, message: str) -> None:
    path = tmp_path / "code"
    path.write_bytes(b"ABCDEFGH")

    with pytest.raises(ConfigError, match=message):
        source.from_file(path, offset, length)


def test_symbol_of_a_program(program: Path) -> None:
    code = source.from_symbol(program, "first")

    assert code == Code(f"{program}:first", 0x400000, b"\x48\x89\xd8")


def test_symbol_at_another_address(program: Path) -> None:
    assert source.from_symbol(program, "first", 0x7000).linear == 0x7000


@pytest.mark.parametrize(
    ("name", "data"),
    [("second", b"\xc3\x90"), ("third", b"\x0f\x0b"), ("lonely", b"\xf4")],
)
def test_symbol_without_size_goes_to_the_next(object_file: Path, name: str, data: bytes) -> None:
    assert source.from_symbol(object_file, name).data == data


def test_function_of_the_c_library() -> None:
    maps = Path("/proc/self/maps").read_text().split()
    libc = Path(next(word for word in maps if "/libc.so" in word))

    assert source.from_symbol(libc, "getppid").data.endswith(b"\xc3")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("frist", "has no symbol 'frist'; did you mean first"),
        ("nothing", "has no symbol 'nothing'$"),
        ("datum", "'datum' is data, not code"),
    ],
)
def test_wrong_symbol(object_file: Path, name: str, message: str) -> None:
    with pytest.raises(ProgramError, match=message):
        source.from_symbol(object_file, name)


def test_symbol_that_is_only_used(tmp_path: Path) -> None:
    path = tmp_path / "user.o"
    subprocess.run(["as", "--64", "-o", str(path), "-"], input=b"call other\n", check=True)

    with pytest.raises(ProgramError, match="does not define 'other', only uses it"):
        source.from_symbol(path, "other")


def test_stripped_program(program: Path, tmp_path: Path) -> None:
    stripped = tmp_path / "stripped"
    subprocess.run(["strip", "-o", str(stripped), str(program)], check=True)

    with pytest.raises(ProgramError, match=r"has no symbols .* --file, --offset and --length"):
        source.from_symbol(stripped, "first")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ProgramError, match="no such file"):
        source.from_symbol(tmp_path / "none", "main")


def test_directory(tmp_path: Path) -> None:
    with pytest.raises(ProgramError, match="is a directory"):
        source.from_file(tmp_path, 0, 1)


def test_device() -> None:
    with pytest.raises(ProgramError, match="not a regular file"):
        source.from_file(Path("/dev/zero"), 0, 1)


@pytest.mark.parametrize(
    ("offset", "data", "message"),
    [
        (0, b"#!sh", "is not an ELF file"),
        (18, struct.pack("<H", 3), "is for 32-bit x86"),
        (18, struct.pack("<H", 183), "is for AArch64"),
        (4, b"\x01", "is for x32"),
        (40, bytes(8), "has no sections"),
        (40, struct.pack("<Q", 1 << 40), "section headers lie outside the file"),
        (58, struct.pack("<H", 1), "its section header entries have the wrong size"),
    ],
)
def test_damaged_or_foreign_elf(
    program: Path, tmp_path: Path, offset: int, data: bytes, message: str
) -> None:
    with pytest.raises(ProgramError, match=message):
        source.from_symbol(patched(program, tmp_path, offset, data), "first")


def test_cut_elf_header(tmp_path: Path) -> None:
    path = tmp_path / "cut"
    path.write_bytes(b"\x7fELF\x02\x01\x01")

    with pytest.raises(ProgramError, match="truncated"):
        source.from_symbol(path, "first")


@pytest.mark.parametrize("length", range(64, 1200, 97))
def test_cut_elf_is_refused_or_read(program: Path, tmp_path: Path, length: int) -> None:
    path = tmp_path / "cut"
    path.write_bytes(program.read_bytes()[:length])

    with pytest.raises(ProgramError):
        source.from_symbol(path, "first")
