"""Bochs as an engine: an independent interpreter of x86 that checks limits, types and privileges.

It boots a disk by a BIOS of its own.  The boot sector of that disk, `loader.S`, brings the
processor into the state that `ringlet run --bare` gives a program.
"""

import os
import pty
import shutil
import struct
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.guests.assembled import NEEDED, flat

BOCHS = "bochs"
LOADER = Path(__file__).with_name("loader.S")
BIOS = Path("/usr/share/bochs/BIOS-bochs-legacy")
VGA_BIOS = Path("/usr/share/vgabios/vgabios.bin")
DISPLAY = "*/bochs/plugins/libbx_term_gui.so"  # under /usr/lib
TIMEOUT = 60.0  # seconds

_SECTOR = 512
_CYLINDER = 16 * 63 * _SECTOR
_CHUNK = 64 * _SECTOR  # what the loader reads at a time
_PT_LOAD = 1
_STOPPED = "HLT instruction with IF=0"
"""What Bochs logs when a program has come to its end."""

# The virtual time of COM1 and of the BIOS passes quickly where few instructions are a second.
_SETTINGS = """\
config_interface: textconfig
display_library: term
romimage: file={bios}, options=fastboot
vgaromimage: file={vga_bios}
memory: guest=128, host=128
cpu: model=corei5_lynnfield_750, count=1, ips=1000000, reset_on_triple_fault=0, ignore_bad_msrs=0
clock: sync=none, time0=1
ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14
ata0-master: type=disk, mode=flat, path={disk}, cylinders={cylinders}, heads=16, spt=63
boot: disk
com1: enabled=1, mode=file, dev={serial}
log: {log}
panic: action=fatal
error: action=ignore
info: action=report
debug: action=ignore
"""


def _installed() -> bool:
    display = next(Path("/usr/lib").glob(DISPLAY), None)
    return bool(shutil.which(BOCHS) and display and BIOS.exists() and VGA_BIOS.exists())


needs_bochs = pytest.mark.skipif(
    not (_installed() and all(map(shutil.which, NEEDED))),
    reason="no Bochs (packages bochs, bochs-term, bochsbios, vgabios) or no GNU assembler",
)


@dataclass(frozen=True)
class Run:
    """What a program printed, whether it ended by a HLT with IF = 0, and the end of Bochs' log."""

    lines: list[str]
    ended: bool
    log: str


def flattened(elf: bytes) -> tuple[bytes, int, int]:
    """Return the memory image of a static ELF32 program, its address and its entry."""
    entry, table = struct.unpack_from("<II", elf, 24)
    size, count = struct.unpack_from("<HH", elf, 42)
    headers = [struct.unpack_from("<6I", elf, table + i * size) for i in range(count)]
    loads = [header for header in headers if header[0] == _PT_LOAD]
    first = min(address for _, _, _, address, _, _ in loads)
    image = bytearray(max(header[3] + header[5] for header in loads) - first)
    for _, offset, _, address, stored, _ in loads:
        image[address - first : address - first + stored] = elf[offset : offset + stored]
    return bytes(image), first, entry


def run_bochs(
    program: bytes, directory: Path, *, to: int, entry: int = 0, timeout: float = TIMEOUT
) -> Run:
    """Load `program` to `to` and run it, in protected mode from `entry` on, or in real mode."""
    disk, settings, serial, log, debugger = (
        directory / f"bochs.{kind}" for kind in ("img", "rc", "serial", "log", "debugger")
    )
    _make_disk(disk, program, to, entry)
    cylinders = disk.stat().st_size // _CYLINDER
    settings.write_text(
        _SETTINGS.format(
            bios=BIOS, vga_bios=VGA_BIOS, disk=disk, cylinders=cylinders, serial=serial, log=log
        )
    )
    debugger.write_text("continue\nquit\n")  # Debian's Bochs begins in its debugger
    serial.touch()
    log.touch()
    command = [BOCHS, "-q", "-f", str(settings), "-rc", str(debugger)]
    ended = _run(command, directory, log, serial, timeout)
    lines = serial.read_text(errors="replace").replace("\r", "").splitlines()
    return Run(lines, ended, log.read_text(errors="replace")[-2000:])


def _make_disk(disk: Path, program: bytes, to: int, entry: int) -> None:
    sectors = -(-len(program) // _SECTOR)
    values = f".set TO, {to}\n.set ENTRY, {entry}\n.set SECTORS, {sectors}\n"
    folder = disk.with_suffix(".loader")
    folder.mkdir()
    loader = flat(values + LOADER.read_text(), folder, start=0x7C00, bits=16).read_bytes()
    room = len(loader) + len(program) + _CHUNK
    with disk.open("wb") as file:
        file.write(loader + program)
        file.truncate(-(-room // _CYLINDER) * _CYLINDER)


def _run(command: list[str], directory: Path, log: Path, serial: Path, timeout: float) -> bool:
    """Run Bochs until its program or it ends, or time is over; return whether the program did."""
    master, terminal = pty.openpty()  # its display without a window wants one
    os.set_blocking(master, False)
    environment = {**os.environ, "TERM": "vt100"}
    process = subprocess.Popen(
        command, cwd=directory, env=environment, stdin=terminal, stdout=terminal, stderr=terminal
    )
    try:
        os.close(terminal)
        ended = _wait(process, master, log, time.monotonic() + timeout)
        _settle(serial)
    finally:
        process.kill()
        process.wait()
        os.close(master)
    return ended


def _wait(process: subprocess.Popen[bytes], master: int, log: Path, until: float) -> bool:
    with log.open(errors="replace") as messages:
        while process.poll() is None and time.monotonic() < until:
            _drain(master)
            if _STOPPED in messages.read():
                return True
            time.sleep(0.05)
        return _STOPPED in messages.read()


def _settle(serial: Path) -> None:
    """Wait for the characters that COM1 had not sent when the program halted."""
    size = -1
    while size != (size := serial.stat().st_size):
        time.sleep(0.2)


def _drain(master: int) -> None:
    try:
        while os.read(master, 65536):
            pass
    except OSError:  # nothing more to read
        pass
