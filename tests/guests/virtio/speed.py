"""Measures streams between guest and host: `python -m tests.guests.virtio.speed`.

200 MB each way through a port of the console device and a stream of the socket device, with Debian
12's kernel; it needs gcc for the socket's program.
"""

import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from ringlet.devices.virtio.console import Console, Port
from ringlet.devices.virtio.vsock import Vsock
from ringlet.images.debian import fetch_kernel
from tests.guests.virtio.guest import Guest, modules

SIZE: Final = 200 << 20
_PIECE: Final = bytes(1 << 20)


def receive(name: str, stream: socket.socket) -> None:
    """Take SIZE bytes from the guest, and print the rate from the first one on."""
    left = SIZE - len(stream.recv(1))
    began = time.monotonic()
    while left and (piece := stream.recv(1 << 20)):
        left -= len(piece)
    _show(f"{name}, guest to host", began)


def send(name: str, stream: socket.socket, begin: Callable[[], None]) -> None:
    """Send SIZE bytes to the guest, and print the rate until all are on their way."""
    begin()
    began = time.monotonic()
    for _ in range(SIZE // len(_PIECE)):
        stream.sendall(_PIECE)
    _show(f"{name}, host to guest", began)
    stream.shutdown(socket.SHUT_WR)


def _show(what: str, began: float) -> None:
    print(f"{what}: {SIZE / 1e6 / (time.monotonic() - began):.0f} MB/s", flush=True)


def main() -> None:
    """Boot once and measure all four."""
    with tempfile.TemporaryDirectory() as directory:
        program = Path(directory) / "vsock"
        source = Path(__file__).with_name("vsock.c")
        subprocess.run(["gcc", "-static", "-O1", "-o", program, source], check=True)
        binary = program.read_bytes()
    kernel = fetch_kernel("linux-image-cloud-amd64/bookworm")
    out, out_end = socket.socketpair()
    into, into_end = socket.socketpair()
    vsocks: list[Vsock] = []

    def console(failed: Callable[[Exception], None]) -> Console:
        return Console([Port("out", out_end.detach()), Port("in", into_end.detach())], failed)

    def sockets(failed: Callable[[Exception], None]) -> Vsock:
        vsocks.append(Vsock(failed))
        return vsocks[0]

    def serve() -> None:
        calls = vsocks[0].listen(1), vsocks[0].listen(2)
        receive("console", out)
        into.send(b"x")  # it is taken when the guest has opened the port
        send("console", into, lambda: None)
        with calls[0].accept() as stream:
            receive("socket", stream)
        with calls[1].accept() as stream:
            send("socket", stream, lambda: None)

    guest = Guest(kernel, modules(kernel))
    guest.run(
        f"dd if=/dev/zero of=/dev/vport0p0 bs=1M count={SIZE >> 20} 2>/dev/null\n"
        "cat /dev/vport0p1 >/dev/null\n"
        f"/vsock out 1 {SIZE}\n/vsock in 2\n",
        [console, sockets],
        files={"vsock": binary},
        started=lambda pc: threading.Thread(target=serve, daemon=True).start(),
    )


if __name__ == "__main__":
    main()
