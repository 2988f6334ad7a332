"""Which engine is taken, and what a host without one is told."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.unit.devices.network.conftest import absent
from tests.unit.devices.network.frames import child
from tests.unit.devices.network.isolated import ROOT, networks

from ringlet.devices.backends.network import addresses, ports
from ringlet.devices.backends.network.engines import PASST, SLIRP, SLIRP_PROGRAM, Kind
from ringlet.devices.backends.network.opening import UserLink, open_network
from ringlet.errors import ConfigError, HostError
from ringlet.network_config import net_config

needs_slirp = pytest.mark.skipif(bool(absent(SLIRP)), reason=absent(SLIRP))


@pytest.fixture
def no_passt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.fixture
def no_libslirp(tmp_path: Path) -> Kind:
    """The engine on a host where the library is not installed."""
    program = tmp_path / "slirp"
    program.write_bytes(SLIRP_PROGRAM.read_bytes().replace(b"libslirp.so.0\0", b"libslirq.so.0\0"))
    program.chmod(0o755)
    return Kind(SLIRP.name, SLIRP.mtu, SLIRP.local_udp, lambda: program, SLIRP.arguments)


def broken(tmp_path: Path, line: str) -> Kind:
    """An engine that ends with a line, as passt does where it has no user namespace."""
    program = tmp_path / "broken"
    program.write_text(
        f"#!/bin/sh\necho 'Failed to send 9 bytes to syslog' >&2\necho '{line}' >&2\nexit 1\n"
    )
    program.chmod(0o755)
    return Kind("passt", 1500, local_udp=False, program=lambda: program, arguments=lambda *_: [])


def fails(*engines: Kind) -> str:
    with pytest.raises(HostError) as caught:
        open_network(net_config("user"), print, engines)
    return str(caught.value)


WANTED = {
    "passt": absent(PASST),
    "libslirp": absent(SLIRP),
    "networks": "" if networks() else "no namespaces with /dev/net/tun, or no ip(8)",
}


@pytest.mark.parametrize("what", WANTED)
def test_this_host_has_what_other_tests_need(what: str) -> None:
    if WANTED[what]:
        pytest.skip(WANTED[what])


def test_no_network_is_no_link() -> None:
    assert open_network(net_config("none"), print) is None


@pytest.mark.usefixtures("no_passt")
def test_a_host_without_engines_is_told_what_to_install(no_libslirp: Kind) -> None:
    assert fails(PASST, no_libslirp) == (
        "--net user needs passt or libslirp: apt-get install passt (Fedora: dnf install passt) or "
        "apt-get install libslirp0 (Fedora: dnf install libslirp)"
    )


@pytest.mark.usefixtures("no_passt")
@needs_slirp
def test_without_passt_libslirp_serves() -> None:
    link = open_network(net_config("user"), print)
    assert link is not None
    link.close()

    assert link.name == "libslirp"


def test_an_engine_that_fails_is_quoted_with_the_others_package(
    tmp_path: Path, no_libslirp: Kind
) -> None:
    assert fails(broken(tmp_path, "no user namespace"), no_libslirp) == (
        "--net user: passt: status 1: no user namespace; install the other engine: apt-get install "
        "libslirp0 (Fedora: dnf install libslirp)"
    )


def test_when_both_fail_both_are_quoted(tmp_path: Path) -> None:
    bad = broken(tmp_path, "no")

    assert fails(bad, bad) == (
        "--net user: no engine runs on this host: passt: status 1: no; passt: status 1: no; "
        "give --net none or a tap"
    )


@needs_slirp
def test_the_next_engine_is_tried(tmp_path: Path) -> None:
    link = open_network(net_config("user"), print, [broken(tmp_path, "no"), SLIRP])
    assert link is not None
    link.close()

    assert link.name == "libslirp"


@needs_slirp
def test_udp_is_forwarded_by_the_engine_that_answers_the_hosts_own_clients() -> None:
    link = open_network(net_config("user", [":53/udp"]), print)
    assert link is not None
    link.close()

    assert link.name == "libslirp"


def test_a_program_that_cannot_run_is_named(tmp_path: Path) -> None:
    program = tmp_path / "slirp"
    program.write_bytes(b"")
    kind = Kind("libslirp", 1500, local_udp=True, program=lambda: program, arguments=lambda *_: [])

    assert f"status 127: {program}: Permission denied" in fails(kind)


NO_NAMESPACES = """
import ctypes, struct
from ringlet.devices.backends.network.opening import open_network
from ringlet.network_config import net_config

# As the default profile of Docker: unshare, and clone with namespaces, fail with EPERM.
rules = [(0x20, 0, 0, 0), (0x15, 0, 1, 272), (6, 0, 0, 0x50001), (0x15, 0, 3, 56),
         (0x20, 0, 0, 16), (0x45, 0, 1, 0x7E020000), (6, 0, 0, 0x50001), (6, 0, 0, 0x7FFF0000)]
code = b"".join(struct.pack("HBBI", *rule) for rule in rules)
buffer = ctypes.create_string_buffer(code)
program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(rules), ctypes.addressof(buffer)))
libc = ctypes.CDLL(None)
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, program) == 0
link = open_network(net_config("user"), print)
print(link.name)
link.close()
"""


def python(program: str) -> subprocess.Popen[str]:
    environ = {**os.environ, "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"}
    return subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=environ, cwd=ROOT
    )


@needs_slirp
def test_without_user_namespaces_libslirp_serves() -> None:
    with python(NO_NAMESPACES) as process:
        assert process.communicate(timeout=60)[0] == "libslirp\n"


KILLED = """
import time
from ringlet.devices.backends.network import engines
from ringlet.devices.backends.network.opening import open_network
from ringlet.network_config import net_config
from tests.unit.devices.network.frames import child

link = open_network(net_config("user"), print, [engines.{name}])
print(child(link.pid), flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("stopped", [False, True])
def test_an_engine_ends_with_a_killed_ringlet(engine: Kind, stopped: bool) -> None:
    with python(KILLED.format(name="PASST" if engine is PASST else "SLIRP")) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        if stopped:  # it dies even if it hangs
            os.kill(pid, signal.SIGSTOP)
        process.kill()
    deadline = time.monotonic() + 10
    while running(pid) and time.monotonic() < deadline:
        time.sleep(0.01)

    assert not running(pid)


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@needs_slirp
def test_libslirps_process_can_do_little() -> None:
    link = open_network(net_config("user"), print, [SLIRP])
    assert isinstance(link, UserLink)
    assert link.pid is not None
    engine = child(link.pid)
    status = Path(f"/proc/{engine}/status").read_text()
    limits = Path(f"/proc/{engine}/limits").read_text()
    link.close()

    lines = dict(line.split(":", 1) for line in status.splitlines())
    assert int(lines["CapEff"], 16) == int(lines["CapPrm"], 16) == 0
    assert (lines["NoNewPrivs"].strip(), lines["Seccomp"].strip()) == ("1", "2")
    assert lines["Uid"].split()[0] != "0"
    for name in ("Max processes", "Max file size", "Max core file size"):
        (row,) = (line for line in limits.splitlines() if line.startswith(name))
        assert row[len("Max core file size") :].split()[0] == "0"


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (13, "port 80 of the host is for root alone; give one from "),
        (98, "TCP port 80 of the host is in use; give another, or none (-p :8080) to have"),
        (99, "this host has no address 0.0.0.0; `ip address` lists those that it has"),
        (12, "port 80 of the host cannot be opened: Cannot allocate memory"),
    ],
)
def test_a_port_that_cannot_be_had_is_told(
    monkeypatch: pytest.MonkeyPatch, number: int, text: str
) -> None:
    def refuse(self: socket.socket, address: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(socket.socket, "bind", refuse)
    with pytest.raises(ConfigError) as caught:
        open_network(net_config("user", ["80:8080"]), print)

    assert str(caught.value).startswith(f"-p 80:8080: {text}")


def test_an_address_of_another_host_is_told() -> None:
    with pytest.raises(ConfigError, match=r"-p 192\.0\.2\.77:8080:80: this host has no address"):
        open_network(net_config("user", ["192.0.2.77:8080:80"]), print)


def test_chosen_ports_are_reported_and_distinct() -> None:
    chosen = ports.choose(net_config("user", ["127.0.0.1::80", "127.0.0.1::81"]).forwards)

    assert len({f.host_port for f in chosen}) == 2
    assert all(f.host_port >= 1024 for f in chosen)


def test_ipv6_ports_need_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "host_has", lambda family: False)
    with pytest.raises(ConfigError, match="this host has no route for IPv6"):
        open_network(net_config("user", ["[::1]::80"]), print)


def test_an_engine_that_hangs_under_load_is_ended_and_told(
    engine: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ringlet.devices.backends.network.engine.HANG_SECONDS", 0.3)
    monkeypatch.setattr("ringlet.devices.backends.network.engine._LOOK_SECONDS", 0.1)
    told: list[str] = []
    link = open_network(net_config("user"), told.append, [engine])
    assert isinstance(link, UserLink)
    assert link.pid is not None
    pid = child(link.pid)
    os.kill(pid, signal.SIGSTOP)
    time.sleep(0.6)
    told_idle = list(told)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(link.fd, bytes(1 << 16))
    deadline = time.monotonic() + 20
    while not told and time.monotonic() < deadline:
        time.sleep(0.01)
    link.close()

    assert told_idle == []
    assert len(told) == 1
    assert told[0].startswith(f"the network's engine {engine.name} ended (it took nothing for 0 s)")
    assert not running(pid)
