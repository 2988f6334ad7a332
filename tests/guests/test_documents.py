"""The programs of the documents and the examples, run as a reader would run them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import ringlet

# The first test fetches the kernel, where there is none.
pytestmark = [pytest.mark.timeout(300), pytest.mark.usefixtures("kernel")]
DOCS = Path(__file__).parents[2] / "docs"
_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = [
    pytest.param(block, id=f"{name}-{number}")
    for name in ("python", "tutorial")
    for number, block in enumerate(_BLOCK.findall((DOCS / f"{name}.md").read_text()))
]
EXAMPLES = {
    "symbols.py": r"^linux_banner: 0xffffffff\w+, physical 0x\w+: b'Linux version 6\.",
    "count_calls.py": r"^__x64_sys_sethostname: 2 calls$",
    "side_by_side.py": r"^panic=5:\n5\npanic=9:\n9$",
}
PRINTED = {
    "python-0": r"^6\.[\w.+-]+-amd64\n\['1', '2', '3'\] done 3\n$",
    "python-1": r"^INT PUTS\(CONST CHAR \*\); .*\n\[.*'hello.c'.*\]\n$",
    "python-2": r"^ended: the guest's kernel panicked\nthe guest's kernel panicked: sysrq",
    "python-3": r"^Linux version 6\.(.*\n)*0xffffffff\w+ is at 0x\w+\n1 call of sethostname\n$",
    "python-4": r"^AX is 0x21\n9 !\n$",
    "python-5": r"^\['42', '1'\]\n$",
    "python-6": r"^a-box\n\[.*'a-box'.*\]\nLinux\n0\n$",
    "tutorial-0": r"^\d+\n0xffffffff\w+\n$",
}


@pytest.mark.parametrize("block", BLOCKS)
def test_program(block: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    name = request.node.callspec.id
    if "def test_" in block:
        (tmp_path / "test_it.py").write_text(block)
        command = [sys.executable, "-m", "pytest", "-q", "-p", "ringlet.pytest_plugin", "--rootdir",
                   str(tmp_path), str(tmp_path / "test_it.py")]  # fmt: skip
        printed = "1 passed"
    else:
        command = [sys.executable, "-c", block]
        printed = PRINTED[name]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False, cwd=tmp_path,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
    )  # fmt: skip

    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(printed, done.stdout, re.MULTILINE)


def test_new_disk_is_used_as_the_page_says(tmp_path: Path) -> None:
    text = (DOCS / "disks.md").read_text()
    commands = re.findall(r"^    (.*)$", text.partition("## In the guest")[2].partition("\n## ")[0],
                          re.MULTILINE)  # fmt: skip
    assert len(commands) == 4
    script = "\n".join(['ringlet() { "$0" -m ringlet "$@"; }', *commands])

    done = subprocess.run(
        ["sh", "-ec", script, sys.executable], stdin=subprocess.DEVNULL, capture_output=True,
        text=True, timeout=240, check=False, cwd=tmp_path,
    )  # fmt: skip

    assert (done.returncode, done.stdout, done.stderr) == (0, "kept\n", "")


def test_disk_has_its_files_name_where_udev_runs(tmp_path: Path) -> None:
    (tmp_path / "data.img").write_bytes(bytes(1 << 20))
    link = "/dev/disk/by-id/virtio-data.img"
    assert f"`{link}`" in (DOCS / "disks.md").read_text()

    with ringlet.Machine("debian", memory="512M", disks=tmp_path / "data.img") as machine:
        machine.start()
        found = machine.run(f"udevadm wait -t 30 {link} && readlink -f {link}", check=True).stdout

    assert found == "/dev/vdb\n"


@pytest.mark.parametrize("name", EXAMPLES)
def test_example(name: str) -> None:
    done = subprocess.run(
        [sys.executable, str(DOCS.parent / "examples/python" / name)], capture_output=True,
        text=True, timeout=120, check=False,
    )  # fmt: skip

    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(EXAMPLES[name], done.stdout, re.MULTILINE)


def test_every_example_is_run() -> None:
    assert {p.name for p in (DOCS.parent / "examples/python").glob("*.py")} == set(EXAMPLES)
