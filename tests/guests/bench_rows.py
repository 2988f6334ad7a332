"""Rows made here for the driver of `ringlet bench programs`, and where they run."""

import shutil
from pathlib import Path

from ringlet.bench.debian import image
from ringlet.bench.debian.image import Image
from ringlet.bench.debian.rounds import Place
from ringlet.bench.toolchain import build_driver
from ringlet.images.busybox import find_busybox
from ringlet.images.cpio import CpioWriter

FILES = Path(image.__file__).parent / "files"
READY = "prepare() { :; }\n"
SCRIPTS = {
    "sum": """
        prepare() { seq 100 >numbers; }
        run() { awk '{ n += $1 * ENVIRON["N"] } END { print n }' numbers; }
    """,
    "rate": READY + 'run() { /bench/driver getppid "$N" >rate; }',
    "faults": READY + 'run() { /bench/driver fault "$N" >rate; }',
    "starts": READY + "run() { for i in 1 2 3 4; do busybox true; done; echo $i; }",
    "fails": READY + "run() { echo 'no such luck' >&2; return 3; }",
    "unready": "prepare() { cat missing; }\nrun() { :; }",
    "late": READY + "run() { sleep 100; }",
    "lasts": READY + "run() { sleep 98765; }",
    "leaves": READY + "run() { sleep 100 & echo left; }",
    "disk": """
        . /bench/files/devices.sh
        prepare() { find_disk; }
        run() { find_disk; dd if="$disk" bs=4096 count=1 2>/dev/null | grep -c datum; }
    """,
    "share": """
        . /bench/files/devices.sh
        prepare() { mount_share; }
        run() { cat /mnt/datum; echo "of $WORLD" >/mnt/answer; }
    """,
    "network": """
        . /bench/files/iperf.sh
        run() { busybox wget -q -O - "http://10.0.2.2:$PORT/"; }
    """,
    "tmp": READY + "run() { ls /tmp/row; touch /tmp/row/x; ls /dev/null /proc/self/exe; }",
}


def make_place(directory: Path) -> Place:
    """Make a tree with a busybox, the rows, the driver, and the tree's RAM disk."""
    tree, bench = directory / "tree", directory / "bench"
    for name in ("bin", "bench", "dev", "proc", "sys", "tmp", "mnt"):
        (tree / name).mkdir(parents=True)
    busybox = find_busybox()
    shutil.copy(busybox, tree / "bin/busybox")
    for name in (
        "sh", "awk", "seq", "sleep", "cat", "ls", "touch", "grep", "sed", "tr", "dd",
    ):  # fmt: skip
        (tree / "bin" / name).symlink_to("busybox")
    (bench / "rows").mkdir(parents=True)
    for name, text in SCRIPTS.items():
        (bench / "rows" / f"{name}.sh").write_text(text)
    (bench / "files").mkdir()
    for name in ("devices.sh", "iperf.sh"):
        shutil.copy(FILES / name, bench / "files")
    shutil.copy(build_driver(directory / "cache"), bench / "driver")
    with (directory / "tree.cpio").open("wb") as file:
        archive = CpioWriter(file)
        for name in sorted(path.name for path in tree.iterdir()):
            archive.directory(name)
        archive.file("bin/busybox", busybox.read_bytes(), 0o755)
        for path in (tree / "bin").iterdir():
            if path.is_symlink():
                archive.symlink(f"bin/{path.name}", "busybox")
        archive.character_device("dev/console", 5, 1)
        archive.end()
    return Place(Image(tree, directory / "tree.cpio", {}), Path("unused"), bench, Path("unused"))
