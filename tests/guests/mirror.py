"""A server of Debian packages made for a test, and the command line that fetches from it."""

import contextlib
import http.server
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ringlet.images.apt import SOURCES
from tests.unit.images.packages import Repository
from tests.unit.machine.kernel_maker import BzImage

KERNEL: Final = "linux-image-6.1.0-99-cloud-amd64"
HALTS: Final = BzImage(code=bytes(0x200) + b"\xfa\xf4" * 64)
"""A kernel that consists of CLI and HLT, so that the run ends with status 4."""
STATUS_HALTED: Final = 4
_CHUNK: Final = 16384


class Mirror:
    """A server with packages of a kernel and of busybox, and an empty cache directory."""

    def __init__(self, directory: Path, kernel: bytes = b"", busybox: bytes = b"") -> None:
        self.cache = directory / "cache"
        self.cache.mkdir()
        self._repository = Repository(directory / "debian")
        self._sources = directory / "test.sources"
        vmlinuz = kernel or HALTS.bytes()
        files = {f"boot/vmlinuz-{KERNEL.removeprefix('linux-image-')}": vmlinuz}
        self._repository.add(KERNEL, files, version="6.1.99-1")
        self._repository.add("linux-image-cloud-amd64", {}, depends=KERNEL)
        tool = busybox or b"#!/bin/sh\necho bin/busybox bin/sh\n"
        self._repository.add("busybox-static", {"bin/busybox": tool})
        self.use(f"file:{self._repository.directory}")

    def use(self, uri: str) -> None:
        """Fetch from `uri`."""
        self._sources.write_text(
            f"Types: deb\nURIs: {uri}\nSuites: ./\nTrusted: yes\nArchitectures: amd64\n"
        )

    def lose(self) -> None:
        """Remove the packages from the server."""
        shutil.rmtree(self._repository.directory)

    @property
    def environment(self) -> dict[str, str]:
        """Return the environment in which the command fetches from this server."""
        return {
            **os.environ, "XDG_CACHE_HOME": str(self.cache), SOURCES: str(self._sources),
        }  # fmt: skip

    def entries(self) -> list[str]:
        """Return the sorted files in the cache, without apt's own."""
        root = self.cache / "ringlet"
        found = (path.relative_to(root) for path in root.rglob("*") if path.is_file())
        return sorted(str(path) for path in found if path.parts[0] != "apt")

    @contextlib.contextmanager
    def slow(self, rate: int) -> Iterator[None]:
        """Serve by HTTP at `rate` bytes a second."""
        members = {"directory": self._repository.directory, "rate": rate}
        handler = type("Handler", (_Slowly,), members)
        with _Server(("127.0.0.1", 0), handler) as server:
            thread = threading.Thread(target=server.serve_forever, args=(0.02,))
            thread.start()
            self.use(f"http://127.0.0.1:{server.server_port}/")
            yield
            server.shutdown()
            thread.join()


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = False  # those that serve are waited for


class _Slowly(http.server.BaseHTTPRequestHandler):
    directory: Path
    rate: int

    def do_GET(self) -> None:
        with contextlib.suppress(ConnectionError):  # whoever fetches may be ended
            self._answer(self.directory / self.path.lstrip("/"))

    def _answer(self, path: Path) -> None:
        if not path.is_file():
            self.send_error(404)
            return
        content = path.read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        for start in range(0, len(content), _CHUNK):
            time.sleep(_CHUNK / self.rate)
            self.wfile.write(content[start : start + _CHUNK])

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
        """Log nothing."""


def command(*arguments: str) -> list[str]:
    """Return the command line `ringlet run` with these arguments."""
    return [sys.executable, "-m", "ringlet", "run", *arguments]


def wait_until_stoppable(pid: int) -> None:
    """Wait until a process catches SIGTERM; before that, Python is still starting."""
    status = Path(f"/proc/{pid}/status")
    while not int(status.read_text().partition("SigCgt:")[2].split()[0], 16) >> 14 & 1:
        time.sleep(0.005)


def session(leader: int) -> list[str]:
    """Return the running processes of a session, without zombies."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state, _, _, number = (process / "stat").read_text().rpartition(")")[2].split()[:4]
            if int(number) == leader and state != "Z":
                found.append((process / "comm").read_text().strip())
    return found
