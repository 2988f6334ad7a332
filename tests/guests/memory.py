"""Measures the host memory that a guest uses: `python -m tests.guests.memory --memory 512M`.

Looks at the process three times: when the guest has booted to its shell, after a program in it has
used 200 MB and given them back, and after it has written and removed a file of that size.  What the
host spends is the process' proportional set without guest RAM, plus the RAM file's blocks (whether
they are mapped or not, each counted once), plus the host's page tables.  What the guest has touched
are the RAM file's blocks.  The exit status is 1 if the difference is ever above 150 MB.
"""

import argparse
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ALLOWED = 150.0
"""The limit, in MB, of the host's memory beyond the RAM that the guest has touched."""
MB = 1e6
RAM_FILE = "memfd:ringlet-ram"
STAGES = (
    ("booted", "true"),
    ("200 MB used and freed", "dd if=/dev/zero of=/dev/null bs=200000000 count=1 2>/dev/null"),
    ("file of 200 MB written and removed",
     "dd if=/dev/zero of=/tmp/file bs=1000000 count=200 2>/dev/null; rm /tmp/file"),
)  # fmt: skip
SCRIPT = """
while read -r line; do
    eval "$line"
    awk '/^MemTotal|^MemFree/ { print $2 }' /proc/meminfo | tr '\\n' ' '
    echo
done
"""


@dataclass(frozen=True)
class Use:
    """The memory in MB at one moment."""

    proportional: float
    mapped_ram: float
    ram_file: float
    page_tables: float

    @property
    def beyond(self) -> float:
        """Return the host's memory beyond the RAM that the guest has touched."""
        return self.proportional - self.mapped_ram + self.page_tables


def of_process(pid: int) -> Use:
    """Measure the process of a guest."""
    place = Path("/proc", str(pid))
    name, proportional, mapped = "", 0, 0
    for line in (place / "smaps").read_text().splitlines():
        words = line.split()
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            name = " ".join(words[5:])
        elif words[0] == "Pss:":
            proportional += int(words[1])
            mapped += int(words[1]) if RAM_FILE in name else 0
    files = [fd for fd in (place / "fd").iterdir() if RAM_FILE in str(fd.readlink())]
    tables = re.search(r"VmPTE:\s+(\d+)", (place / "status").read_text())
    assert tables is not None
    return Use(
        proportional * 1024 / MB,
        mapped * 1024 / MB,
        files[0].stat().st_blocks * 512 / MB,
        int(tables[1]) * 1024 / MB,
    )


def main() -> int:
    """Boot a guest and measure it at each stage."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--memory", default="512M")
    memory = parser.parse_args().memory
    command = [sys.executable, "-m", "ringlet", "run", "busybox", "--memory", memory, "--",
               "sh", "-c", SCRIPT]  # fmt: skip
    worst = 0.0
    print(f"{'MB':<36}{'guest uses':>11}{'touched':>9}{'host spends':>13}{'beyond':>8}"
          f"{'PSS':>7}{'of RAM':>8}")  # fmt: skip
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as guest:
        assert guest.stdin is not None
        assert guest.stdout is not None
        for name, work in STAGES:
            guest.stdin.write(f"{work}\n")
            guest.stdin.flush()
            total, free = map(int, guest.stdout.readline().split())
            use = of_process(guest.pid)
            worst = max(worst, use.beyond)
            print(f"{name:<36}{(total - free) * 1024 / MB:>11.0f}{use.ram_file:>9.0f}"
                  f"{use.ram_file + use.beyond:>13.0f}{use.beyond:>8.0f}{use.proportional:>7.0f}"
                  f"{use.mapped_ram:>8.0f}", flush=True)  # fmt: skip
        guest.stdin.close()
    print(f"at most {worst:.0f} MB beyond the RAM touched, {ALLOWED:.0f} are allowed")
    return worst > ALLOWED or guest.returncode


if __name__ == "__main__":
    sys.exit(main())
