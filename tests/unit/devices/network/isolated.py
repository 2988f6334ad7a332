"""Runs Python in namespaces of its own, where the test decides what the host has."""

import functools
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[4]
_UNSHARE = ["unshare", "--user", "--map-root-user", "--mount", "--net"]
_NETWORK = """
ip link set lo up
ip tuntap add dev wan mode tap
ip address add 192.0.2.9/24 dev wan
ip link set wan up
ip route add default via 192.0.2.1
"""


@functools.cache
def namespaces() -> bool:
    """Whether this host lets programs make user namespaces."""
    try:
        return subprocess.run([*_UNSHARE, "true"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


@functools.cache
def networks() -> bool:
    """Whether a network of its own can be made there: that takes /dev/net/tun and ip(8)."""
    return namespaces() and _run("", "").returncode == 0


def _run(setup: str, program: str) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"}
    return subprocess.run(
        [*_UNSHARE, "sh", "-ec", f'{_NETWORK}\n{setup}\nexec "$0" -c "$1"', sys.executable,
         program],
        capture_output=True, text=True, check=False, cwd=ROOT, env=environ, timeout=60,
    )  # fmt: skip


def run(program: str, setup: str = "") -> str:
    """What `program` prints, after the shell has run `setup` there as root."""
    done = _run(setup, program)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
