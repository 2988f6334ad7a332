"""Small operating systems, one page of assembler each, and the engines that run them.

Each is `systems/NAME.S`, loaded at 0000:7C00 and entered in real mode.  It prints what it sees over
the serial port; `systems/NAME.txt` is what it must print by the SDM.
"""

import subprocess
import sys
from pathlib import Path

from tests.conformance.engines import DISTURBED, QEMU
from tests.guests.assembled import flat, linked
from tests.guests.bochs.machine import run_bochs

FOLDER = Path(__file__).with_name("systems")
START = 0x7C00
PLACE = "16@0:7c00"
TIMEOUT = 60.0  # seconds
TIMED_OUT = -1
SECTOR = "boot_sector"
"""The one that QEMU's firmware can start by itself."""

# What `ringlet run --flat 16@0:7C00` does: QEMU starts kernels in protected mode.
_LOADER = """
        .section .note.pvh, "a", @note
        .long 4, 4, 18
        .asciz "Xen"
        .long entry
        .text
        .code32
entry:  cli
        cld
        xor %eax, %eax
        xor %edi, %edi
        mov $0x100, %ecx
        rep stosl
        mov $image, %esi
        mov $0x7C00, %edi
        mov $end - image, %ecx
        rep movsb
        mov $low, %esi
        mov $0x500, %edi
        mov $low_end - low, %ecx
        rep movsb
        lgdt gdtr - low + 0x500
        ljmp $8, $0x500
        .code16
low:    mov $16, %ax
        mov %ax, %ds
        mov %ax, %es
        mov %ax, %fs
        mov %ax, %gs
        mov %ax, %ss
        mov $0x10, %eax
        mov %eax, %cr0
        ljmp $0, $real - low + 0x500
real:   xor %ax, %ax
        mov %ax, %ds
        mov %ax, %es
        mov %ax, %fs
        mov %ax, %gs
        mov %ax, %ss
        mov $0xFFFE, %sp
        lidtw idtr - low + 0x500
        ljmp $0, $0x7C00
gdt:    .quad 0, 0x00009B000000FFFF, 0x000093000000FFFF
gdtr:   .word 23
        .long gdt - low + 0x500
idtr:   .word 0x3FF
        .long 0
low_end:
image:  .incbin "FILE"
end:
"""


def names() -> list[str]:
    """Return the name of each system."""
    return sorted(path.stem for path in FOLDER.glob("*.S"))


def image_of(name: str, directory: Path) -> Path:
    """Assemble a system, linked at 7C00h; return its image."""
    source = "".join((FOLDER / part).read_text() for part in ("console.inc", f"{name}.S"))
    return flat(source, directory, start=START, bits=16)


def expected(name: str) -> list[str]:
    """Return the lines that a system must print."""
    return (FOLDER / f"{name}.txt").read_text().splitlines()


def on_ringlet(image: Path, *options: str) -> tuple[int, list[str]]:
    """Run an image under Ringlet; return its status and lines."""
    command = [sys.executable, "-m", "ringlet", "run", "--bare", "--flat", PLACE]
    return _run([*command, "--memory", "16M", *options, str(image)])


def on_disturbed_ringlet(image: Path, mode: str) -> tuple[int, list[str]]:
    """Run an image under Ringlet with a disturbance that `disturbed.py` names."""
    return _run([sys.executable, str(DISTURBED), mode, str(image), PLACE])


def on_qemu(name: str, image: Path, directory: Path) -> tuple[int, list[str]]:
    """Run an image under QEMU's TCG; return its status and lines."""
    if name == SECTOR:
        return _run([*QEMU, "-drive", f"file={image},format=raw,if=ide,snapshot=on"])
    folder = directory / "loader"
    folder.mkdir()
    kernel = linked(_LOADER.replace("FILE", str(image)), folder)
    return _run([*QEMU, "-cpu", "max", "-kernel", str(kernel)])


def on_bochs(image: Path, directory: Path) -> tuple[bool, list[str]]:
    """Run an image under Bochs; return whether it ended by a HLT, and its lines."""
    run = run_bochs(image.read_bytes(), directory, to=START)
    return run.ended, run.lines


def _run(command: list[str]) -> tuple[int, list[str]]:
    try:
        result = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired as timeout:
        return TIMED_OUT, [*_lines(timeout.stdout), "timed out"]
    return result.returncode, _lines(result.stdout) + _lines(result.stderr)[-5:]


def _lines(output: bytes | None) -> list[str]:
    return (output or b"").decode(errors="replace").replace("\r", "").splitlines()
