"""Direct execution under the limits of a container: it works, or says in one line why not."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from ringlet.errors import ImageError
from ringlet.images.debian import extract, private_apt
from ringlet.images.store import Store, default_root
from tests.guests.counters import direct_counters

PACKAGE = "golang-github-containers-common"
PROFILE = "usr/share/containers/seccomp.json"
PATIENCE = 120
TASKS = 16
"""More than a machine needs besides direct processes, and fewer than it needs with all of them."""
RINGLET = [sys.executable, "-m", "ringlet"]

pytestmark = [pytest.mark.timeout(300), pytest.mark.usefixtures("kernel")]


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Podman's default filter, from the host or else from Debian."""
    installed = Path("/", PROFILE)
    if installed.exists():
        return installed
    directory = tmp_path_factory.mktemp("profile")
    target = directory / "seccomp.json"
    store = Store(default_root())
    apt = private_apt(store)
    try:
        with store.locked(lambda: None):
            apt.prepare()
            if not apt.lists_are_new():
                apt.update()
            deb = apt.download(PACKAGE, directory)
        extract(deb, re.compile(rf"\./{PROFILE}"), target)
    except ImageError as error:
        pytest.skip(f"no container's profile here: {error}")
    return target


def contained(command: list[str], *limits: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.guests.contained", *limits, "--", *command],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=PATIENCE,
        check=False,
    )  # fmt: skip


def guest(script: str) -> list[str]:
    return [*RINGLET, "run", "busybox", "--direct", "always", "--stats", "--", "sh", "-c", script]


def test_a_container_has_these_limits(profile: Path) -> None:
    done = contained(["grep", "-E", "^(CapEff|NoNewPrivs|Seccomp):", "/proc/self/status"],
                     "--profile", str(profile))  # fmt: skip

    assert re.findall(r"(\w+):\s+(\w+)", done.stdout) == [
        ("CapEff", "0" * 16), ("NoNewPrivs", "1"), ("Seccomp", "2"),
    ]  # fmt: skip
    refused = contained(["mount", "-t", "tmpfs", "none", "/mnt"], "--profile", str(profile))
    assert refused.returncode != 0


def test_programs_run_directly_in_a_container_or_doctor_says_why(profile: Path) -> None:
    limits = ("--profile", str(profile))
    doctor = contained([*RINGLET, "doctor"], *limits)
    found = re.search(r"^(\w+) +direct execution +(.*)", doctor.stdout, re.MULTILINE)

    done = contained(guest("echo $((6*7))"), *limits)

    assert found is not None, doctor.stdout + doctor.stderr
    assert "Traceback" not in doctor.stderr + done.stderr
    if found[1] == "ok":
        assert (done.returncode, done.stdout) == (0, "42\n"), done.stderr
        assert direct_counters(done.stderr)["direct_calls"] > 100
        assert direct_counters(done.stderr)["direct_lost"] == 0
        return
    reason = found[2].removeprefix("absent, all guest code is translated: ")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert reason in done.stderr


def test_programs_go_on_where_not_all_processes_can_be_made() -> None:
    """Two dozen programs at once, and a host that allows no more than a few processes."""
    script = (
        "n=0; while [ $n -lt 24 ]; do (i=0; while [ $i -lt 2000 ]; do i=$((i+1)); done;"
        " echo $n:$i) & n=$((n+1)); done; wait"
    )
    done = contained(guest(script), "--tasks", str(TASKS))

    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    assert sorted(done.stdout.split()) == sorted(f"{n}:2000" for n in range(24))
    assert direct_counters(done.stderr)["direct_lost"] == 0


@pytest.mark.parametrize("tasks", range(1, 10))
def test_host_that_allows_few_tasks_is_named(tasks: int) -> None:
    """Whatever cannot be made first: a line says so, or the guest goes on."""
    done = contained(guest("echo $((6*7))"), "--tasks", str(tasks))

    if done.returncode:
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    else:
        assert done.stdout == "42\n"
