"""Shared directories, networks and Ringlet's own directories on a host that fails."""

from __future__ import annotations

import functools
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

import ringlet
from ringlet.control import peripherals
from ringlet.devices.backends.network.engines import PASST, SLIRP, Kind
from ringlet.devices.backends.network.opening import open_network
from tests.guests.failing import PATIENCE, RINGLET, Told, descendants, fill, shell
from tests.unit.devices.network import isolated
from tests.unit.devices.network.conftest import absent

MIB = 1 << 20

pytestmark = [pytest.mark.timeout(300), pytest.mark.usefixtures("kernel")]


def sharing(directory: Path) -> ringlet.Machine:
    return ringlet.Machine("busybox", memory="128M", mounts=[f"{directory}:/mnt"])


# --- shared directories


_FULL = (
    "echo kept >/mnt/kept; dd if=/dev/zero of=/mnt/much bs=1M count=20 || echo no >&2; "
    "rm /mnt/much; dd if=/dev/zero of=/mnt/again bs=1M count=4 conv=fsync && cat /mnt/kept"
)


def test_a_full_file_system_is_the_programs_error(tmp_path: Path, small: Path) -> None:
    """By the command line, within the namespace that has the file system."""
    keeper = small.parts[2]
    point = str(tmp_path / "small")
    done = subprocess.run(
        ["nsenter", f"--target={keeper}", "--user", "--mount", "--preserve-credentials",
         *RINGLET, "run", "-m", "128M", "-v", f"{point}:/mnt", "busybox", "sh", "-c", _FULL],
        capture_output=True, check=False, timeout=PATIENCE,
    )  # fmt: skip
    said = done.stderr.decode()
    assert (done.returncode, done.stdout) == (0, b"kept\n"), said
    assert "No space left on device" in said
    assert "no\n" in said
    assert said.count(f"ringlet: shared directory {point}: the host's disk is full\n") == 1
    assert said.count("ringlet:") == 1
    assert (small / "again").stat().st_size == 4 * MIB


def test_a_directory_that_is_removed_is_told(tmp_path: Path, told: Told) -> None:
    directory = tmp_path / "share"
    directory.mkdir()
    (directory / "file").write_text("text")
    with sharing(directory) as machine:
        machine.start().ready(PATIENCE)
        assert shell(machine, "cat /mnt/file") == "text"
        shutil.rmtree(directory)
        said = shell(machine, "sleep 1.1; cat /mnt/file || touch /mnt/new || echo alive")
    assert said.count("No such file or directory") == 2
    assert said.endswith("alive\n")
    assert told.lines() == [
        f"ringlet: shared directory {directory}: it was removed; the guest goes on without it"
    ]


def test_a_directory_that_is_replaced_stays_the_guests(tmp_path: Path, told: Told) -> None:
    """As for any program whose working directory it is."""
    directory = tmp_path / "share"
    directory.mkdir()
    with sharing(directory) as machine:
        machine.start().ready(PATIENCE)
        directory.rename(tmp_path / "moved")
        directory.mkdir()
        shell(machine, "echo text >/mnt/file")
    assert (tmp_path / "moved" / "file").read_text() == "text\n"
    assert list(directory.iterdir()) == []
    assert told.lines() == []


def test_a_directory_without_permission_is_told_before_the_start(tmp_path: Path) -> None:
    directory = tmp_path / "secret"
    directory.mkdir(mode=0)
    ordinary = [] if os.geteuid() else ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]
    done = subprocess.run(
        [*ordinary, *RINGLET, "run", "-v", f"{directory}:/mnt", "busybox", "true"],
        capture_output=True, check=False, timeout=PATIENCE,
    )  # fmt: skip
    directory.chmod(0o700)
    assert done.returncode == 2
    assert done.stderr.decode() == (
        f"ringlet: cannot share {directory}: you have no permission to enter it; share another "
        "directory, or have its owner allow it\n"
    )


# --- networks


@pytest.mark.parametrize("kind", [PASST, SLIRP], ids=["passt", "libslirp"])
def test_an_engine_that_is_killed_is_told_and_the_cable_is_out(
    told: Told, monkeypatch: pytest.MonkeyPatch, kind: Kind
) -> None:
    if lacking := absent(kind):
        pytest.skip(lacking)
    only = functools.partial(open_network, engines=[kind])
    monkeypatch.setattr(peripherals, "open_network", only)
    with ringlet.Machine("busybox", memory="128M", net="user") as machine:
        machine.start().ready(PATIENCE)
        assert shell(machine, "cat /sys/class/net/eth0/carrier") == "1\n"
        for process in descendants(lambda name: name.startswith(("passt", "slirp"))):
            os.kill(process, signal.SIGKILL)
        line = told.wait_for("network")
        said = shell(
            machine, "i=0; while [ $i -lt 50 ] && grep -q 1 /sys/class/net/eth0/carrier; do "
            "sleep 0.1; i=$((i + 1)); done; cat /sys/class/net/eth0/carrier; "
            "ping -c 1 -W 1 10.0.2.2 || echo alive"
        )  # fmt: skip
    assert said.startswith("0\n")
    assert said.endswith("alive\n")
    assert told.lines() == [line]
    assert line == (
        f"ringlet: the network's engine {kind.name} ended (killed by signal 9): the guest has no "
        "network from now on"
    )


_TAP = """
import subprocess, ringlet
with ringlet.Machine("busybox", memory="128M", net="tap:lan") as machine:
    machine.start().ready(90)
    def sh(script):
        print(machine.run(["sh", "-c", script], timeout=90).stdout, flush=True)
    sh("ip address add 198.51.100.2/24 dev eth0; ip link set eth0 up; "
       "for i in 1 2 3 4 5 6 7 8; do ping -c 1 -W 2 198.51.100.1 && break; done")
    subprocess.run(["ip", "link", "delete", "lan"], check=True)
    sh("i=0; while [ $i -lt 50 ] && grep -q 1 /sys/class/net/eth0/carrier; do "
       "sleep 0.1; i=$((i + 1)); done; echo carrier $(cat /sys/class/net/eth0/carrier)")
"""


@pytest.mark.skipif(not isolated.networks(), reason="a tap needs user namespaces and /dev/net/tun")
def test_a_tap_that_is_removed_is_told_and_the_cable_is_out() -> None:
    said = isolated.run(
        f"import sys; sys.stderr = sys.stdout\n{_TAP}",
        "ip tuntap add lan mode tap; ip address add 198.51.100.1/24 dev lan; ip link set lan up",
    )
    assert "1 packets received" in said
    assert "carrier 0\n" in said
    (line,) = [one for one in said.splitlines() if one.startswith("ringlet:")]
    assert line.startswith("ringlet: the network's interface (tap lan) was removed or fails (")
    assert line.endswith("): the guest has no network from now on")


def test_a_port_of_the_host_that_is_taken_is_told() -> None:
    with socket.create_server(("0.0.0.0", 0)) as other:
        port = other.getsockname()[1]
        done = subprocess.run(
            [*RINGLET, "run", "-p", f"{port}:80", "busybox", "true"],
            capture_output=True, check=False,
        )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.decode() == (
        f"ringlet: -p {port}:80: TCP port {port} of the host is in use; give another, or none "
        "(-p :80) to have one chosen\n"
    )


# --- Ringlet's own directories and processes


def test_a_full_runtime_directory_is_told_and_nothing_is_left(small: Path) -> None:
    fill(small, 0)
    done = subprocess.run(
        [*RINGLET, "run", "-d", "--name", "box", "busybox"], capture_output=True, check=False,
        timeout=PATIENCE, env={**os.environ, "XDG_RUNTIME_DIR": str(small)},
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.decode() == (
        f"ringlet: {small}/ringlet/machines: No space left on device; set XDG_RUNTIME_DIR\n"
    )
    assert list((small / "ringlet" / "machines").iterdir()) == []


def test_a_command_ends_with_its_machines_process(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}

    def call(*words: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [*RINGLET, *words], capture_output=True, check=False, timeout=PATIENCE, env=environment
        )

    assert call("run", "-d", "-m", "128M", "--name", "box", "busybox").returncode == 0
    (machine,) = json.loads(call("ps", "--json").stdout)
    with subprocess.Popen(
        [*RINGLET, "exec", "box", "sh", "-c", "echo up; sleep 999"], env=environment,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as command:  # fmt: skip
        assert command.stdout is not None
        assert command.stdout.readline() == b"up\n"
        os.kill(machine["pid"], signal.SIGKILL)
        begun = time.monotonic()
        _, said = command.communicate(timeout=PATIENCE)
    log = call("logs", "-f", "box")

    assert time.monotonic() - begun < PATIENCE / 2
    assert command.returncode == 2
    assert said.startswith(b"ringlet: box has ended: ")
    assert said.count(b"\n") == 1
    assert (log.returncode, b"Run /init" in log.stdout, log.stderr) == (0, True, b"")
    assert call("rm", "box").returncode == 0
    assert json.loads(call("ps", "-a", "--json").stdout) == []
