"""Rows of `ringlet bench io` with each device, in a Ringlet guest and natively."""

import contextlib
import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ringlet.bench.beside import user_namespaces
from ringlet.bench.debian.image import initial_disk
from ringlet.bench.debian.rounds import Figures, Place, Settings, compare
from ringlet.bench.debian.rows import Row
from ringlet.bench.devices import DISK, Devices
from ringlet.errors import ImageError
from ringlet.images.building import fetch_modules
from ringlet.images.debian import fetch_kernel
from ringlet.images.store import Store, default_root
from tests.guests.bench_rows import make_place

pytestmark = [
    pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc on this host"),
    pytest.mark.timeout(300),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    made = make_place(tmp_path_factory.mktemp("bench"))
    try:
        kernel = fetch_kernel()
        modules = fetch_modules(kernel, lambda line: None, store=Store(default_root()))
    except ImageError as error:
        pytest.skip(f"no Debian kernel: {error}")
    with initial_disk(made.image, made.bench, modules.archive.read_bytes()) as disk:
        yield Place(made.image, disk, made.bench, kernel.vmlinuz)


def run(place: Place, name: str, devices: Devices, output: str, engine: str) -> Figures:
    row = Row(name, "base", name, 1, 1, output=output)
    here = Place(place.image, place.disk, place.bench, place.kernel, devices)
    settings = Settings(memory=256, limit=60, counting=False)
    made = compare([row], {"base": here}, [engine], settings)
    assert made.errors == {}
    return made.figures[0]


@pytest.fixture
def served() -> Iterator[int]:
    """The port of a server on the loopback that greets whoever connects."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(120)

        def greet() -> None:
            client, _ = server.accept()
            with client:
                client.recv(4096)
                client.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: 6\r\n\r\nhello\n")
                # Old engines of networking lose the end of a connection that both sides close.
                client.settimeout(60)
                with contextlib.suppress(OSError):
                    client.recv(4096)

        thread = threading.Thread(target=greet, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        thread.join(120)


ENGINES = ["ringlet", *(["native"] if user_namespaces() else [])]


@pytest.mark.parametrize("engine", ENGINES)
def test_the_file_of_the_disk_is_the_guests_disk(
    place: Place, tmp_path: Path, engine: str
) -> None:
    (tmp_path / DISK).write_bytes(b"a datum\n".ljust(1 << 20, b"\n"))

    done = run(place, "disk", Devices(tmp_path, disk=True), "1\n", engine)

    assert done.errors == {}
    assert done.timings[engine].wall > 0


@pytest.mark.parametrize("engine", ENGINES)
def test_the_directory_is_the_guests_work(place: Place, tmp_path: Path, engine: str) -> None:
    (tmp_path / "datum").write_text("a datum\n")

    done = run(place, "share", Devices(tmp_path, shared=True), "a datum\n", engine)

    assert done.errors == {}
    assert (tmp_path / "answer").read_text() in ("of guest\n", "of native\n")


def test_a_guest_reaches_a_server_of_the_host(place: Place, tmp_path: Path, served: int) -> None:
    done = run(place, "network", Devices(tmp_path, port=served), "hello\n", "ringlet")

    assert done.errors == {}


@pytest.mark.skipif(
    shutil.which("pasta") is None or not user_namespaces(), reason="pasta cannot run here"
)
def test_a_native_program_reaches_it_through_pasta(
    place: Place, tmp_path: Path, served: int
) -> None:
    done = run(place, "network", Devices(tmp_path, port=served), "hello\n", "native")

    assert done.errors == {}
