"""Seconds until Debian runs: `python -m bench.debian_boot [--rounds N]`.

Ringlet and QEMU's TCG start the same kernel, initial RAM disk and disks with the same command
line, in turn.  Printed is the least time from the start of the program until the console asks for a
login, and until `systemctl is-system-running` says running, which the console's shell is asked for.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, Final

from ringlet.control.plan import Plan, plan
from ringlet.control.setup import setup_runner
from ringlet.control.spec import machine_spec
from ringlet.disk_spec import DiskSpec

MEMORY: Final = "1G"
MEMORY_MIB: Final = 1024
_LOGIN: Final = b"login:"
_PROMPT: Final = b"~# "
_ASK: Final = b"until systemctl is-system-running | grep -q run; do sleep .1; done; echo up-$?\n"
_UP: Final = b"up-0"
_PATIENCE_S: Final = 600.0


def qemu(found: Plan, initrd: Path) -> list[str]:
    """Return the command of the same guest under TCG; what it writes to a disk is dropped."""
    disks = [word for disk in found.disks for word in ("-drive", _drive(disk))]
    return [
        "qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-m", str(MEMORY_MIB), "-nographic",
        "-no-reboot", "-nic", "none", "-kernel", str(found.kernel), "-initrd", str(initrd),
        "-append", found.append, "-device", "virtio-serial-pci",
        "-chardev", "null,id=agent",
        "-device", "virtserialport,chardev=agent,name=org.ringlet.agent", *disks,
    ]  # fmt: skip


def _drive(disk: DiskSpec) -> str:
    kind = disk.format.value if disk.format is not None else "raw"
    return f"file={disk.path},format={kind},if=virtio,snapshot=on"


def measure(command: list[str]) -> tuple[float, float]:
    """Run a guest whose console is the program's streams; return both times."""
    began = time.monotonic()
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0
    ) as process:
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            _read_until(process.stdout, _LOGIN)
            login = time.monotonic() - began
            _read_until(process.stdout, _PROMPT)
            process.stdin.write(_ASK)
            _read_until(process.stdout, _UP)
            return login, time.monotonic() - began
        finally:
            process.kill()


def _read_until(stream: IO[bytes], text: bytes) -> None:
    end = time.monotonic() + _PATIENCE_S
    seen = b""
    while text not in seen:
        part = stream.read(4096)
        if not part or time.monotonic() > end:
            raise SystemExit(f"the guest has not shown {text!r}, but {seen[-300:]!r}")
        seen = (seen + part)[-10_000:]


def main() -> None:
    """Print the least times of each."""
    parser = argparse.ArgumentParser(prog="python -m bench.debian_boot")
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    found = plan(machine_spec("debian", memory=MEMORY), None, run_setup=setup_runner())
    with tempfile.NamedTemporaryFile() as file:
        file.write(found.make_initrd(None))
        file.flush()
        engines = {
            "Ringlet": ["script", "-qfec", f"{sys.executable} -m ringlet run -m {MEMORY} debian",
                        "/dev/null"],
            "QEMU TCG": qemu(found, Path(file.name)),
        }  # fmt: skip
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in engines}
        for _ in range(rounds):
            for name, command in engines.items():
                times[name].append(measure(command))
    for name, taken in times.items():
        login, running = (min(column) for column in zip(*taken, strict=True))
        print(f"{name:<10} login {login:6.1f} s   running {running:6.1f} s", flush=True)


if __name__ == "__main__":
    main()
