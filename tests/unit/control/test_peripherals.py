"""What a user gives a machine and another machine has already."""

import subprocess
import sys
from pathlib import Path

import pytest

from ringlet.control import peripherals
from ringlet.control.background.places import Found
from ringlet.control.peripherals import Peripherals
from ringlet.control.spec import MachineSpec
from ringlet.devices.backends.disks.locks import Use
from ringlet.disk_spec import DiskSpec
from ringlet.errors import DiskError

_HOLD = """
import sys
from pathlib import Path
from ringlet.devices.backends.disks import locks
file = open(sys.argv[1], "r+b")
locks.lock(file.fileno(), locks.Use[sys.argv[2]], Path(sys.argv[1]), print)
print("locked", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize(
    ("use", "said"),
    [
        (Use.WRITE, "writes this image; ringlet stop d1, or use a copy of the image"),
        (Use.READ, "reads this image; ringlet stop d1, or add ,snapshot to write nothing to it"),
    ],
)
def test_machine_that_has_an_image_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, use: Use, said: str
) -> None:
    image = tmp_path / "d.img"
    image.write_bytes(bytes(4096))
    with subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(image), use.name],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as holder:  # fmt: skip
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        found = [Found("d1", tmp_path, "running", pid=holder.pid)]
        monkeypatch.setattr(peripherals, "machines", lambda: found)

        with pytest.raises(DiskError) as caught:
            Peripherals(MachineSpec(disks=(DiskSpec(image),)), None, print)

        assert holder.stdin is not None
        holder.stdin.close()
    assert str(caught.value) == f"disk {image}: the machine d1 (process {holder.pid}) {said}"
