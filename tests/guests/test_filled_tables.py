"""Guests that fill what they can: they go on, and so does the next guest of the same kernel."""

import itertools
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.machine.elf_maker import Elf, Part

PATIENCE = 100
BASE = 0x1000000
SET_ZERO = b"\x31\xc0"  # xor eax, eax
LEAVE = SET_ZERO + b"\xe6\xf4\xf4"  # out 0xF4, al; hlt
STACK = b"\x48\xc7\xc4\x00\x00\x08\x00"  # mov rsp, 0x80000
# mov eax, [rsi + 0x228]; cmp byte ptr [rax], "A"; jne rel32, which follows
ASK = b"\x8b\x86\x28\x02\x00\x00\x80\x38\x41\x0f\x85"
SAY_OK = b"".join(b"\xb0%c\xee" % letter for letter in b"ok\n")  # mov al, letter; out dx, al
SERIAL = b"\x66\xba\xf8\x03"  # mov dx, 0x3F8
POWER_OFF = b"\x66\xba\x04\x06\xb8\x00\x34\x00\x00\x66\xef\xf4"  # mov dx, 0x604; out dx, 0x3400
AVX_ON = bytes.fromhex("0f20e0 0d00060400 0f22e0 31c9 31d2 b807000000 0f01d1")
VECTORS = b"".join(
    b"\xc5%c%c\xc2" % (last, opcode)
    for last in (0xF5, 0xF1)  # ymm, xmm
    for opcode in (0xFC, 0xFD, 0xFE, 0xD4, 0xF8, 0xF9, 0xFA, 0xFB, 0xDB, 0xEB, 0xEF, 0xDA, 0xDE,
                   0xE0, 0xE3, 0x74, 0x75, 0x76, 0x64, 0x65, 0x66, 0x58, 0x5C, 0x59, 0x5E)
)  # fmt: skip


def looked_at(count: int) -> bytes:
    """Code that jumps over so many instructions of different shapes, with ZF set."""
    variants = itertools.product(
        (b"", b"\x0f", b"\x0f\x38", b"\x0f\x3a"), (b"\x40", b"\x48"), (b"", b"\xf2", b"\xf3"),
        (b"", b"\xf0"), (b"", b"\x66"), range(256),
    )  # fmt: skip
    code = bytearray()
    for opcode_map, rex, rep, lock, size, opcode in itertools.islice(variants, count):
        body = size + rep + lock + rex + opcode_map + bytes((opcode,)) + bytes(8)
        code += b"\x74%c" % len(body) + body  # jz
    return bytes(code)


def run(*arguments: str, cache: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ringlet", "run", "--stats", *arguments],
        env={**os.environ, "XDG_CACHE_HOME": str(cache)},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip


def counted(ended: subprocess.CompletedProcess[str], name: str) -> int:
    found = re.search(rf"^{name} +([0-9,]+) ", ended.stderr, re.MULTILINE)
    assert found is not None, ended.stderr
    return int(found[1].replace(",", ""))


def test_guest_with_more_shapes_than_there_is_room_for_goes_on(tmp_path: Path) -> None:
    code = SET_ZERO + looked_at(24576) + LEAVE
    program = Elf((Part(data=code),)).write(tmp_path / "shapes.elf")

    ended = run("--bare", str(program), cache=tmp_path)

    assert ended.returncode == 1, ended.stderr
    assert counted(ended, "shapes_emptied") >= 1


def test_what_one_guest_fills_does_not_end_the_next(tmp_path: Path) -> None:
    hostile = SET_ZERO + looked_at(17040) + POWER_OFF
    code = STACK + ASK + len(hostile).to_bytes(4, "little") + hostile
    code += AVX_ON + VECTORS + SERIAL + SAY_OK + POWER_OFF
    kernel = Elf((Part(physical=BASE, data=code),), entry=BASE).write(tmp_path / "vmlinux")

    first = run("--kernel", str(kernel), "--append", "A", cache=tmp_path)
    second = run("--kernel", str(kernel), "--append", "B", cache=tmp_path)

    assert (first.returncode, first.stdout) == (0, ""), first.stderr
    assert (second.returncode, second.stdout) == (0, "ok\n"), second.stderr
    assert counted(first, "shapes") > 8000
    assert counted(second, "shapes") < 3000


@pytest.mark.parametrize("prefixes", [12, 13])
def test_rex_before_vex_at_the_end_of_an_instruction_is_the_guests_exception(
    tmp_path: Path, prefixes: int
) -> None:
    code = b"\x66" * prefixes + b"\x48\xc5\xc0\0\0" + LEAVE
    program = Elf((Part(data=code),)).write(tmp_path / "prefixes.elf")

    ended = run("--bare", str(program), cache=tmp_path)

    assert ended.returncode == 3, ended.stderr  # without a handler
