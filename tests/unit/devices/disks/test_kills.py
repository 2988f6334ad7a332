"""What a machine has flushed is in its image when it is killed."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.unit.devices.disks.driver import Driver

from ringlet.devices.backends.disks import create_image, engine
from ringlet.disk_spec import DiskSpec, Format

MIB = 1 << 20

WRITER = """
import os, sys, threading
from pathlib import Path
from ringlet.devices.backends.disks import Operation, Request, open_disk
from ringlet.disk_spec import parse_disk
disk = open_disk(parse_disk(sys.argv[1]), lambda line: None)
def do(operation, offset=0, length=0, buffers=()):
    codes, ended = [], threading.Event()
    done = lambda code: (codes.append(code), ended.set())
    disk.submit(Request(operation, offset, length, list(buffers), done))
    ended.wait()
    if codes != [0]:
        sys.exit()
n = 0
while True:
    do(Operation.WRITE, n * 65536, 4096, [memoryview(n.to_bytes(4, "big") * 1024)])
    do(Operation.FLUSH)
    n += 1
    os.write(1, n.to_bytes(4, "big"))
"""


def kill_engines(process: subprocess.Popen[bytes]) -> None:
    for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
        os.killpg(int(child), signal.SIGKILL)


@pytest.mark.parametrize("engine_too", [False, True])
@pytest.mark.parametrize("seconds", [0.05, 0.2])
@pytest.mark.parametrize("layout", Format)
def test_what_was_flushed_is_there_after_a_kill(
    tmp_path: Path, layout: Format, seconds: float, engine_too: bool
) -> None:
    if layout is Format.QCOW2 and shutil.which(engine.PROGRAM) is None:
        pytest.skip("needs qemu-storage-daemon")
    image = create_image(tmp_path / "image", 1024 * MIB, layout).path
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, image], stdout=subprocess.PIPE
    ) as process:  # fmt: skip
        assert process.stdout is not None
        said = process.stdout.read(4)
        time.sleep(seconds)
        if engine_too:
            kill_engines(process)
        process.kill()
        said += process.stdout.read()
    flushed = int.from_bytes(said[-4:], "big")

    with Driver(DiskSpec(image)) as disk:
        found = [int.from_bytes(disk.read(n * 65536, 512)[:4], "big") for n in range(flushed)]

    assert flushed
    assert found == list(range(flushed))
    if layout is Format.QCOW2 and shutil.which("qemu-img") is not None:
        done = subprocess.run(["qemu-img", "check", "-q", image], check=False)
        leaked = {3} if engine_too else set()  # clusters that nothing uses: only room is lost
        assert done.returncode in {0} | leaked
