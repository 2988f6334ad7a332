"""The engines that run a guest program, and the evaluation of its output."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.guests.bochs.machine import flattened, run_bochs
from tests.guests.build_guest import Guest

_ENTRY = 24  # e_entry of ELF64
TIMEOUT = 60.0  # seconds a program may take
DISTURBED = Path(__file__).with_name("disturbed.py")

# The processor that Ringlet offers its guests, as far as QEMU can model it.
QEMU_CPU = (
    "max,vendor=GenuineIntel,pcid=off,smep=off,smap=off,umip=off,la57=off,pku=off"
)
QEMU = (
    "qemu-system-x86_64", "-M", "pc,usb=off,vmport=off", "-accel", "tcg", "-m", "128M",
    "-nodefaults", "-display", "none", "-no-reboot", "-serial", "stdio", "-device",
    "isa-debug-exit,iobase=0xf4,iosize=4",
)

@dataclass(frozen=True)
class Outcome:
    """What a run printed and how it ended; `status` is None after a timeout."""

    status: int | None
    lines: list[str]
    errors: str

    @property
    def failed(self) -> dict[str, str]:
        """The failed checks' lines by the check's name."""
        lines = (line for line in self.lines if line.startswith("FAIL "))
        return {line.split()[1]: line for line in lines}

    @property
    def passed(self) -> set[str]:
        return {line.split()[1] for line in self.lines if line.startswith("ok ")}

    @property
    def done(self) -> bool:
        """Whether the program printed its last line."""
        return any(line.startswith("done ") for line in self.lines)

    def tail(self) -> str:
        """Return the end of the output, for a message."""
        return "\n".join([f"status {self.status}", *self.lines[-8:], self.errors[-2000:]])


def run_qemu(guest: Guest) -> Outcome:
    """Run under QEMU's TCG."""
    return _run([*QEMU, "-cpu", QEMU_CPU, "-kernel", str(guest.pvh)])


def run_on_bochs(guest: Guest, directory: Path, timeout: float = TIMEOUT) -> Outcome:
    """Run a 32-bit program under Bochs, which has no port for a status: 0 if it ended by a HLT."""
    image, to, entry = flattened(guest.bare.read_bytes())
    run = run_bochs(image, directory, to=to, entry=entry, timeout=timeout)
    return Outcome(0 if run.ended else None, run.lines, run.log)


def run_ringlet(guest: Guest, *options: str, timeout: float = TIMEOUT) -> Outcome:
    """Run under Ringlet, as a user would."""
    command = [sys.executable, "-m", "ringlet", "run", "--bare", str(guest.bare)]
    return _run([*command, "--memory", "128M", *options], timeout)


def run_on_pc(guest: Guest) -> Outcome:
    """Run under Ringlet as the kernel of a PC, which has an I/O APIC and more."""
    command = [sys.executable, "-m", "ringlet", "run", "--kernel", str(guest.bare), "--cold"]
    return _run([*command, "--memory", "128M", "--debug-exit", "--no-reboot"])


def run_by_pvh(guest: Guest) -> Outcome:
    """Run under Ringlet as a kernel that has no other entry than that of PVH, as under QEMU."""
    image = bytearray(guest.pvh.read_bytes())
    image[_ENTRY : _ENTRY + 8] = bytes(8)
    kernel = guest.pvh.with_suffix(".pvh.elf")
    kernel.write_bytes(image)
    command = [sys.executable, "-m", "ringlet", "run", "--kernel", str(kernel), "--cold"]
    return _run([*command, "--memory", "128M", "--debug-exit", "--no-reboot"])


def run_disturbed(guest: Guest, mode: str) -> Outcome:
    """Run under Ringlet with a disturbance that `disturbed.py` names."""
    return _run([sys.executable, str(DISTURBED), mode, str(guest.bare)])


def _run(command: list[str], timeout: float = TIMEOUT) -> Outcome:
    try:
        result = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout, check=False
        )
    except subprocess.TimeoutExpired as late:
        return Outcome(None, _lines(late.stdout), _text(late.stderr))
    return Outcome(result.returncode, _lines(result.stdout), _text(result.stderr))


def _text(output: bytes | None) -> str:
    return (output or b"").decode(errors="replace")


def _lines(output: bytes | None) -> list[str]:
    return _text(output).replace("\r", "").splitlines()


