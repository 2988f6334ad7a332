"""Memtest86+ of Debian: a whole pass of its programs for 32 and 64 bits finds no error."""

from __future__ import annotations

import re
import subprocess
import sys
import time

import pytest

from tests.guests.packaged import packaged_file

PATIENCE = 800
"""Seconds; a pass takes some 100 on an idle machine, 80 of which wait for bits to fade."""
MEMORY = "16M"
SIZES = ("x64", "ia32")
_PLACE = re.compile(rb"\x1b\[(\d+);(\d+)H")
_OTHER = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]")

pytestmark = pytest.mark.timeout(PATIENCE + 100)


def screen(output: bytes) -> str:
    """Return the screen of 80 columns that the output of a serial terminal has drawn."""
    rows = [[" "] * 80 for _ in range(26)]
    row = column = at = 0
    while at < len(output):
        if place := _PLACE.match(output, at):
            row, column, at = int(place[1]) - 1, int(place[2]) - 1, place.end()
        elif other := _OTHER.match(output, at):
            at = other.end()
        else:
            if output[at] >= 0x20 and row < 26 and column < 80:
                rows[row][column] = chr(output[at])
                column += 1
            at += 1
    return "\n".join("".join(line).rstrip() for line in rows)


@pytest.fixture(scope="module")
def passed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The screens after the first pass; both run at the same time, because they mostly wait."""
    directory = tmp_path_factory.mktemp("memtest")
    logs, machines = {}, {}
    for size in SIZES:
        place = directory / size
        place.mkdir()
        image = packaged_file("memtest86+", rf"\./boot/memtest86\+{size}\.bin", place)
        logs[size] = place / "log"
        logs[size].touch()
        machines[size] = subprocess.Popen(
            [sys.executable, "-m", "ringlet", "run", "--kernel", str(image), "-m", MEMORY,
             "--append", "console=ttyS0,115200", "--timeout", f"{PATIENCE}s", "--log",
             str(logs[size])],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
    try:
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            screens = {size: screen(log.read_bytes()) for size, log in logs.items()}
            if all(re.search(r"Pass: +[1-9]|Errors: +[1-9]", text) for text in screens.values()):
                break
            time.sleep(1)
    finally:
        for machine in machines.values():
            machine.terminate()
            machine.wait()
    return {size: screen(log.read_bytes()) for size, log in logs.items()}


@pytest.mark.parametrize("size", SIZES)
def test_a_pass_finds_no_error(passed: dict[str, str], size: str) -> None:
    shown = passed[size]

    assert "Memtest86+ v6" in shown
    assert re.search(r"Pass: +[1-9]\d* +Errors: 0", shown), shown
