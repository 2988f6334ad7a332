"""Measures the engines of user-mode networking: python -m tests.measure_network [SECONDS].

As root, with iperf3 installed.  The guest is a network namespace whose tap is connected to the
engine's socket by this program, which needs processor time too: what it says is a lower bound.
"""

import argparse
import contextlib
import fcntl
import json
import os
import select
import socket
import struct
import subprocess
import sys
import threading
import time
from typing import Any

from ringlet.devices.backends.network import screen
from ringlet.devices.backends.network.engines import PASST, SLIRP, Kind
from ringlet.devices.backends.network.opening import UserLink, open_network
from ringlet.network_config import net_config
from tests.unit.devices.network.frames import child

ROUNDS = 2000


def engine_seconds(pid: int) -> float:
    with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def host_address() -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 53))
        return str(probe.getsockname()[0])


def iperf(server: tuple[str, int], seconds: float, *more: str) -> float:
    """The bits that arrive in a second."""
    for _ in range(20):  # the server of the test before may not have ended
        done = subprocess.run(
            ["iperf3", "-J", "-c", server[0], "-p", str(server[1]), "-t", str(seconds), *more],
            capture_output=True, text=True, check=False, timeout=seconds + 20,
        )  # fmt: skip
        if "busy" not in done.stdout:
            break
        time.sleep(1)
    report: dict[str, Any] = json.loads(done.stdout)
    if "error" in report:
        print(f"iperf3: {report['error']}", file=sys.stderr)
        return float("nan")
    end = report["end"]
    if "-u" in more:
        total = end["sum"]
        return float(total["bits_per_second"] * (1 - total["lost_percent"] / 100))
    return float(end["sum_received"]["bits_per_second"])


def round_trip(address: str, port: int) -> float:
    """Seconds from a byte that is sent to its echo."""
    with socket.create_connection((address, port)) as s:
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        begin = time.perf_counter()
        for _ in range(ROUNDS):
            s.sendall(b"x")
            s.recv(1)
        return (time.perf_counter() - begin) / ROUNDS


def connection(address: str, port: int) -> float:
    """Seconds that a connection takes with one byte and its echo."""
    begin = time.perf_counter()
    for _ in range(200):
        with socket.create_connection((address, port)) as s:
            s.sendall(b"x")
            s.recv(1)
    return (time.perf_counter() - begin) / 200


def echo(server: socket.socket) -> None:
    while True:
        peer, _ = server.accept()
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with peer, contextlib.suppress(ConnectionResetError):
            while data := peer.recv(65536):
                peer.sendall(data)


def bridge(stream: socket.socket, tap: int) -> None:
    """Pass frames between the engine and the tap."""
    received = bytearray()
    while True:
        for ready in select.select([stream.fileno(), tap], [], [])[0]:
            if ready == tap:
                frame = os.read(tap, 65600)
                if screen.permits(frame):
                    stream.sendall(struct.pack("!I", len(frame)) + frame)
                continue
            data = stream.recv(1 << 20)
            if not data:
                return
            received += data
            at = 0
            while len(received) - at >= 4:
                end = at + 4 + int.from_bytes(received[at : at + 4])
                if end > len(received):
                    break
                os.write(tap, received[at + 4 : end])
                at = end
            del received[:at]


def tests(server: tuple[str, int], echo_port: int, seconds: float, engine: int) -> dict[str, float]:
    """Every figure, by its name.  Those of data have the engine's share of a processor beside."""
    found: dict[str, float] = {}
    for name, more in {
        "out": [], "in": ["-R"], "UDP out": ["-u", "-b", "1G", "-l", "1400"],
    }.items():  # fmt: skip
        used = engine_seconds(engine) if engine else 0.0
        found[name] = iperf(server, seconds, *more)
        if engine:
            found[name + " share"] = (engine_seconds(engine) - used) / seconds
    found["round trip"] = round_trip(server[0], echo_port)
    found["connection"] = connection(server[0], echo_port)
    return found


def guest(
    fd: int,
    mac: str,
    mtu: int,
    server: tuple[str, int],
    echo_port: int,
    seconds: float,
    engine: int,
) -> None:
    """Everything that happens in the guest's network namespace; one line of JSON."""
    tap = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(tap, 0x400454CA, struct.pack("16sH22x", b"guest0", 0x1002))
    for command in (
        f"link set guest0 address {mac} mtu {mtu} up", "link set lo up",
        "address add 10.0.2.15/24 dev guest0", "route add default via 10.0.2.2",
    ):  # fmt: skip
        subprocess.run(["ip", *command.split()], check=True)
    stream = socket.socket(fileno=fd)
    stream.setblocking(True)
    threading.Thread(target=bridge, args=(stream, tap), daemon=True).start()
    print(json.dumps(tests(server, echo_port, seconds, engine)))


def measure(kind: Kind, mtu: int, server: tuple[str, int], echo_port: int, seconds: float) -> None:
    begin = time.perf_counter()
    link = open_network(net_config("user"), print, [kind])
    started = time.perf_counter() - begin
    assert isinstance(link, UserLink)
    assert link.pid is not None
    engine = child(link.pid)
    done = subprocess.run(
        ["unshare", "-n", sys.executable, "-m", "tests.measure_network", "--guest", str(link.fd),
         link.mac.hex(":"), str(mtu), server[0], str(server[1]), str(echo_port), str(seconds),
         str(engine)],
        pass_fds=[link.fd], stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    with open(f"/proc/{engine}/status") as file:  # noqa: PTH123
        memory = next(line.split()[1] for line in file if line.startswith("VmRSS"))
    link.close()
    show(f"{kind.name}, MTU {mtu}", json.loads(done.stdout))
    print(f"    starts in {started * 1e3:.1f} ms, {int(memory) >> 10} MiB")


def show(name: str, figures: dict[str, float]) -> None:
    """Print Gbit/s, and in brackets those that one processor's whole time would give."""
    words = [name + ":"]
    for key in ("out", "in", "UDP out"):
        words.append(f"{key} {figures[key] / 1e9:.2f}")
        if share := figures.get(key + " share"):
            words.append(f"({figures[key] / 1e9 / share:.1f})")
    words.append(f"Gbit/s, round trip {figures['round trip'] * 1e6:.0f} us,")
    words.append(f"connection {figures['connection'] * 1e6:.0f} us")
    print(*words, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("seconds", nargs="?", type=float, default=3)
    parser.add_argument("--engine", nargs="*", default=["passt", "libslirp"])
    parser.add_argument("--mtu", nargs="*", type=int, default=[65520, 1500])
    parser.add_argument("--guest", nargs=8)
    options = parser.parse_args()
    if options.guest:
        fd, mac, mtu, address, served, port, seconds, pid = options.guest
        server = (address, int(served))
        guest(int(fd), mac, int(mtu), server, int(port), float(seconds), int(pid))
        return
    address = host_address()
    echoes = socket.create_server((address, 0))
    port = echoes.getsockname()[1]
    threading.Thread(target=echo, args=(echoes,), daemon=True).start()
    with socket.create_server((address, 0)) as free:
        server = (address, free.getsockname()[1])
    with subprocess.Popen(
        ["iperf3", "-s", "-p", str(server[1])], stdout=subprocess.DEVNULL
    ) as serving:
        time.sleep(0.3)
        try:
            show("the host itself", tests(server, port, options.seconds, 0))
            for kind in [k for k in (PASST, SLIRP) if k.name in options.engine]:
                for mtu in options.mtu:
                    measure(kind, mtu, server, port, options.seconds)
        finally:
            serving.terminate()


if __name__ == "__main__":
    main()
