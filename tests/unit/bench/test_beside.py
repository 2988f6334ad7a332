"""What runs beside a command, with programs made here in place of the servers."""

import os
import shutil
from pathlib import Path

import pytest

from ringlet.bench import beside

SERVER = """#!/bin/sh
path=${1#--socket-path=}
echo "$$" >"$PIDS/server"
[ -z "$REFUSE" ] || { echo "$REFUSE" >&2; exit 1; }
: >"$path"
exec sleep 1000
"""


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that is first in PATH."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("PIDS", str(tmp_path))
    monkeypatch.delenv("REFUSE", raising=False)
    program = tmp_path / "virtiofsd"
    program.write_text(SERVER)
    program.chmod(0o755)
    return tmp_path


def is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_commands_status_is_passed_on() -> None:
    assert beside.main(["--", "sh", "-c", "exit 7"]) == 7


def test_the_server_serves_while_the_command_runs(programs: Path) -> None:
    status = beside.main(["virtiofsd", str(programs), "--", "test", "-e", "{virtiofsd}"])

    server = int((programs / "server").read_text())
    assert status == 0
    assert not is_running(server)


def test_a_server_that_refuses_is_quoted(
    programs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("REFUSE", "not allowed here")

    status = beside.main(["virtiofsd", str(programs), "--", "true"])

    assert status == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith(": not allowed here")


def test_without_namespaces_the_network_is_qemus_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(beside, "user_namespaces", lambda: False)
    said = tmp_path / "said"

    status = beside.main(["nat", "--", "sh", "-c", 'echo "$1" >"$0"', str(said), "{nat}"])

    assert status == 0
    assert said.read_text().startswith("user,id=nat,")


def test_without_namespaces_there_is_no_native_network(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(beside, "user_namespaces", lambda: False)

    status = beside.main(["pasta", "-a", "10.0.2.15", "--", "true"])

    assert status == 2
    assert "no namespaces" in capsys.readouterr().err
