"""Kill a guest that writes and flushes, again and again: python -m tests.guests.power_cut ROUNDS.

Each round starts a guest with an ext4 disk of its own, on which a program appends a number to a
file, fsyncs the file and then prints the number.  Before every eighth number it fills one of four
files of 1 MiB with that number, and fsyncs it.  Ringlet is killed (SIGKILL) at a random moment,
which is a power cut for the guest.  Then the file system's journal must replay cleanly, every
number that was printed must be in the file, and the last large file before it must be whole.
"""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

SIZE = 256 << 20
EACH = 8
"""A large file is written before each number that is a multiple."""
FILES = 4
LARGE = 1 << 20
LOAD = (
    "mkdir -p /mnt && mount /dev/vdb /mnt && i=0 && while :; do i=$((i + 1)); "
    f"if [ $((i % {EACH})) = 0 ]; then f=/mnt/large$((i / {EACH} % {FILES})); "
    f"yes $i | head -c {LARGE} >$f; sync $f; fi; "
    "echo $i >>/mnt/file; sync /mnt/file; echo $i; done"
)
PATIENCE = 20.0
TOOLS = "/usr/sbin:/sbin"


def tool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run one of e2fsprogs' programs."""
    path = f"{os.environ.get('PATH', '')}:{TOOLS}"
    return subprocess.run(
        arguments, capture_output=True, text=True, check=False, env=os.environ | {"PATH": path}
    )


def make_disk(path: Path, form: str = "raw") -> None:
    """Make an ext4 file system in a raw or qcow2 image."""
    raw = path.with_suffix(".raw")
    raw.touch()
    os.truncate(raw, SIZE)
    assert tool("mke2fs", "-q", "-F", "-t", "ext4", raw).returncode == 0
    if form == "qcow2":
        assert tool("qemu-img", "convert", "-O", "qcow2", raw, path).returncode == 0
        raw.unlink()
    elif raw != path:
        raw.rename(path)


def printed_until_killed(disk: Path, seconds: float) -> int:
    """Run the load, kill Ringlet some time after the first number; return the last number."""
    command = [
        sys.executable, "-m", "ringlet", "run", "--disk", str(disk), "debian", "sh", "-c", LOAD,
    ]  # fmt: skip
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline()]
        killer = threading.Timer(seconds, process.send_signal, [signal.SIGKILL])
        killer.start()
        lines += process.stdout.readlines()
        killer.join()
    # The last line may be cut, and then it is not known whether its number was printed whole.
    whole = [line for line in lines if line.endswith(b"\n")]
    assert whole, "the load has not begun"
    return int(whole[-1])


def kept(disk: Path, last: int, form: str = "raw") -> list[int]:
    """Replay the journal, check the file system, and return the numbers in the file.

    `last` is the last one that was printed, for the large files.
    """
    raw = disk
    if form == "qcow2":
        raw = disk.with_suffix(".check")
        end = time.monotonic() + PATIENCE
        # The engine of the disk ends, and gives up its lock, soon after Ringlet.
        while (done := tool("qemu-img", "convert", "-O", "raw", disk, raw)).returncode != 0:
            assert time.monotonic() < end, done.stderr
            time.sleep(0.05)
    replayed = tool("e2fsck", "-p", raw)
    assert replayed.returncode in {0, 1}, (replayed.stdout, replayed.stderr)
    checked = tool("e2fsck", "-f", "-n", raw)
    assert checked.returncode == 0, checked.stdout
    text = tool("debugfs", "-R", "cat /file", raw).stdout
    numbers = [int(number) for number in re.findall(r"^(\d+)$", text, re.MULTILINE)]
    large = last // EACH * EACH
    if large and numbers[-1] + 1 < large + EACH * FILES:  # the guest has not begun to replace it
        content = tool("debugfs", "-R", f"cat /large{large // EACH % FILES}", raw).stdout
        assert content == (f"{large}\n" * LARGE)[:LARGE], (last, len(content), content[:8])
    return numbers


def cut(directory: Path, seconds: float, form: str = "raw") -> int:
    """Do one round in an empty directory; return how many numbers were printed."""
    disk = directory / f"disk.{form}"
    make_disk(disk, form)
    last = printed_until_killed(disk, seconds)
    numbers = kept(disk, last, form)
    assert numbers[:last] == list(range(1, last + 1)), (last, numbers[-5:])
    return last


def main() -> None:
    """Do the rounds."""
    chance = random.Random(int(sys.argv[2]) if len(sys.argv) > 2 else 1)
    written = 0
    rounds = int(sys.argv[1])
    for number in range(rounds):
        form = ("raw", "qcow2")[number % 2]
        directory = Path(tempfile.mkdtemp(prefix="ringlet-cut-"))
        written += cut(directory, chance.uniform(0.01, 2.0), form)
        shutil.rmtree(directory)
    print(f"{rounds} power cuts, {written} numbers were flushed, none is missing")


if __name__ == "__main__":
    main()
