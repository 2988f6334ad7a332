"""Makes what the rows of a benchmark run in: images, RAM disks, a disk, a network, a directory."""

import contextlib
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ringlet.bench.debian import rows as groups
from ringlet.bench.debian.image import bench_directory, initial_disk, make_image, on_host
from ringlet.bench.debian.rounds import Place
from ringlet.bench.debian.rows import SOURCES, Group, Row, groups_of
from ringlet.bench.devices import DISK, Devices
from ringlet.errors import HostError, ImageError
from ringlet.images.building import fetch_modules
from ringlet.images.debian import Progress, fetch_kernel
from ringlet.images.store import Store, explain
from ringlet.images.tools import output, started

DISK_BYTES: Final = 1 << 30
_CHUNK: Final = 1 << 20
_GIT_S: Final = 300
_SERVER_S: Final = 15
_SOURCES: Final = "usr/share/go-1.19/src"


@dataclass(frozen=True, slots=True)
class Source:
    """Where things come from: the cache of benchmarks, the store of images, a kernel of the user's.

    `directory` is where the disk and the shared directory are made; they vanish at the end.
    """

    cache: Path
    store: Store
    kernel: Path | None = None
    directory: Path | None = None


@contextlib.contextmanager
def made_places(
    rows: Sequence[Row], source: Source, progress: Progress
) -> Iterator[dict[str, Place]]:
    """Give the place of each group of `rows`.  Raises ImageError and HostError."""
    wanted = groups_of(rows)
    with contextlib.ExitStack() as stack:
        bench = bench_directory(source.cache)
        kernel = source.kernel or fetch_kernel(progress=progress).vmlinuz
        modules = b""
        if source.kernel is None and any(group.devices for group in wanted):
            found = fetch_modules(fetch_kernel(progress=progress), progress, store=source.store)
            modules = found.archive.read_bytes()
        places = {}
        for group in wanted:
            image = make_image(group, source.cache, source.store, progress)
            devices = stack.enter_context(_devices(group, image.tree, source, progress))
            loaded = modules if group.devices else b""
            disk = stack.enter_context(initial_disk(image, bench, loaded))
            places[group.name] = Place(image, disk, bench, kernel, devices)
        yield places


@contextlib.contextmanager
def _devices(group: Group, tree: Path, source: Source, progress: Progress) -> Iterator[Devices]:
    """Give the devices of a group's guests."""
    if not group.devices:
        yield Devices()
        return
    base = source.directory or source.cache
    with contextlib.ExitStack() as stack:
        try:
            name = tempfile.TemporaryDirectory(prefix="ringlet-bench-", dir=base)
            directory = Path(stack.enter_context(name))
            if groups.DISK in group.devices:
                progress("writing the disk's file")
                # mkfs writes a new file system anyway; what is only read must be there.
                write_disk(directory / DISK, DISK_BYTES, filled=group.name == groups.DISK)
            if groups.SHARE in group.devices:
                sources = make_image(SOURCES, source.cache, source.store, progress)
                progress("making the shared directory")
                make_repository(directory / "sources", sources.tree / _SOURCES, tree)
        except OSError as error:
            raise explain(error, base) from error
        port = 0
        if groups.NETWORK in group.devices:
            port = stack.enter_context(network_server(tree, directory))
        yield Devices(
            directory, disk=groups.DISK in group.devices, shared=groups.SHARE in group.devices,
            port=port,
        )  # fmt: skip


def write_disk(path: Path, size: int, *, filled: bool) -> None:
    """Make the file of a disk of `size` bytes; if `filled`, with data that cannot be compressed."""
    with path.open("wb") as file:
        file.truncate(size)
        for _ in range(size // _CHUNK if filled else 0):
            file.write(os.urandom(_CHUNK))
        file.flush()
        os.fsync(file.fileno())


def make_repository(target: Path, source: Path, tree: Path) -> None:
    """Copy the files of `source` to `target`, and commit them with the git of `tree`."""
    shutil.copytree(source, target, symlinks=True)
    git = [*on_host(tree, "usr/bin/git"), "-C", str(target), "-c", "safe.directory=*",
           "-c", "user.name=bench", "-c", "user.email=bench@localhost", "-c", "gc.auto=0",
           "-c", "maintenance.auto=false", "-c", "core.hooksPath=/dev/null"]  # fmt: skip
    environment = {
        **os.environ, "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_EXEC_PATH": str(tree / "usr/lib/git-core"), "GIT_TEMPLATE_DIR": "",
    }  # fmt: skip
    for words in (["init", "-q"], ["add", "-A", "-f"], ["commit", "-q", "-m", "sources"]):
        done = output([*git, *words], _GIT_S, environment=environment)
        if done.returncode:
            reason = done.stderr.strip().splitlines() or ["no reason given"]
            raise ImageError(f"git {words[0]} in {target}: failed: {reason[-1]}")


@contextlib.contextmanager
def network_server(tree: Path, directory: Path) -> Iterator[int]:
    """Run the iperf3 of `tree` as a server on the host's loopback; give its port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    log = directory / "iperf3.log"
    command = [*on_host(tree, "usr/bin/iperf3"), "-s", "-B", "127.0.0.1", "-p", str(port),
               "--forceflush", "--logfile", str(log)]  # fmt: skip
    with started(command) as server:
        deadline = time.monotonic() + _SERVER_S
        while not (log.exists() and "listening" in log.read_text(encoding="utf-8")):
            if server.poll() is not None or time.monotonic() > deadline:
                raise HostError("iperf3 cannot serve on 127.0.0.1 of this host")
            time.sleep(0.05)
        yield port
