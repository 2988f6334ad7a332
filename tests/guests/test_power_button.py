"""The power button of guests without an agent, or whose agent does not answer."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import ringlet
from ringlet.images.debian import CachedKernel
from ringlet.machine.outcome import EndKind
from tests.guests.debian import started_debian
from tests.guests.virtio.guest import Guest, modules

PATIENCE = 120
RINGLET = [sys.executable, "-m", "ringlet"]
# The first test fetches the kernel, where there is none.
pytestmark = [pytest.mark.timeout(400), pytest.mark.usefixtures("kernel")]

# A guest that does what acpid does: it waits for a key event of the button.
_WAITS = """
exec 3</dev/input/event0
echo the button is there
dd of=/dev/null bs=24 count=1 <&3 2>/dev/null
echo it was pressed
"""
_DEAF = "echo the button is there; sleep 1000"


class Own:
    """A kernel and an initial RAM disk of the user's own, in files."""

    def __init__(self, kernel: CachedKernel, directory: Path, script: str) -> None:
        self.kernel = kernel.vmlinuz
        self.initrd = directory / "initrd"
        self.initrd.write_bytes(Guest(kernel, modules(kernel)).initrd(script, {}))
        self.environment = {**os.environ, "XDG_RUNTIME_DIR": str(directory)}
        directory.chmod(0o700)

    def machine(self) -> ringlet.Machine:
        return ringlet.Machine(
            kernel=self.kernel, initrd=self.initrd, memory="256M",
            append="console=ttyS0 quiet panic=-1",
        )  # fmt: skip

    def run(self, *options: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*RINGLET, "run", "-m", "256M", *options, "--initrd", str(self.initrd), "--append",
             "console=ttyS0 quiet panic=-1", str(self.kernel)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env=self.environment,
        )  # fmt: skip

    def call(self, *words: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [*RINGLET, *words], capture_output=True, check=False, timeout=PATIENCE,
            env=self.environment,
        )  # fmt: skip


@pytest.fixture
def own(kernel: CachedKernel, tmp_path: Path) -> Own:
    return Own(kernel, tmp_path, _WAITS)


def until_it_waits(process: subprocess.Popen[bytes]) -> None:
    assert process.stdout is not None
    while b"the button is there" not in process.stdout.readline():
        assert process.poll() is None


def test_stop_presses_the_button(own: Own) -> None:
    with own.machine() as machine:
        machine.start().console.expect("the button is there", PATIENCE)
        machine.stop(PATIENCE)

        assert machine.wait().kind is EndKind.POWER_OFF
        assert "it was pressed" in machine.last_output()


def test_guest_whose_kernel_has_no_driver_is_cut_off_at_once(
    kernel: CachedKernel, tmp_path: Path
) -> None:
    own = Own(kernel, tmp_path, f"rmmod button; {_DEAF}")
    with own.machine() as machine:
        machine.start().console.expect("the button is there", PATIENCE)
        start = time.monotonic()
        machine.stop(PATIENCE)

        assert machine.wait().kind is EndKind.STOPPED
        assert time.monotonic() - start < PATIENCE / 4


def test_guest_that_does_nothing_is_cut_off_in_time(kernel: CachedKernel, tmp_path: Path) -> None:
    own = Own(kernel, tmp_path, _DEAF)
    with own.machine() as machine:
        machine.start().console.expect("the button is there", PATIENCE)
        start = time.monotonic()
        machine.stop(1.0)

        assert machine.wait().kind is EndKind.STOPPED
        assert 1.0 <= time.monotonic() - start < PATIENCE / 4


def test_sigterm_presses_the_button(own: Own) -> None:
    with own.run() as process:
        until_it_waits(process)
        process.send_signal(signal.SIGTERM)
        said, told = process.communicate(timeout=PATIENCE)

    assert b"it was pressed" in said
    assert process.returncode == 128 + signal.SIGTERM
    assert b"the guest is turning itself off" in told


def test_stop_command_presses_the_button(own: Own) -> None:
    with own.run("--name", "own") as process:
        until_it_waits(process)
        stopped = own.call("stop", "-t", "60s", "own")
        process.communicate(timeout=PATIENCE)
    (listed,) = json.loads(own.call("ps", "-a", "--json").stdout)

    assert (stopped.returncode, process.returncode, listed["status"]) == (0, 0, 0)
    assert b"it was pressed" in own.call("logs", "own").stdout


def test_debian_with_logind_turns_itself_off_without_its_agent() -> None:
    """Its agent stands still, as one that hangs would."""
    with started_debian() as machine:
        machine.run(
            "modprobe -a button evdev && udevadm settle && "
            "systemctl unmask systemd-logind && systemctl start systemd-logind",
            check=True,
        )
        agent = machine.run("pgrep -o -x agent", check=True).stdout.strip()
        machine.popen(["sh", "-c", f"sleep 1; kill -STOP {agent}"])
        time.sleep(2)
        machine.stop(PATIENCE)

        assert machine.wait().kind is EndKind.POWER_OFF
