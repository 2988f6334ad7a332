"""A machine of another process: commands and files in it, its log, and how it ends."""

import os
import signal
import socket
import time
from dataclasses import replace
from pathlib import Path

import pytest

import ringlet
from ringlet.control.background import client
from ringlet.control.background.client import Attached, attach, machines
from ringlet.control.background.places import find
from ringlet.control.background.server import LONGEST_REQUEST, socket_address
from ringlet.errors import (
    AgentError,
    CommandError,
    CommandFailedError,
    ConfigError,
    GuestEnded,
    GuestTimeout,
)
from tests.unit.control.background.machine import PATIENCE, running


def say(machine: Attached, text: bytes) -> bytes:
    """Send `text` to a machine's process and return all that it answers."""
    with socket.socket(socket.AF_UNIX) as stream:
        stream.settimeout(PATIENCE)
        with socket_address(machine.look().directory) as address:
            stream.connect(address)
        stream.sendall(text)
        stream.shutdown(socket.SHUT_WR)
        answer = b""
        while part := stream.recv(4096):
            answer += part
        return answer


def gone(pid: int) -> bool:
    """Wait until a process has ended, and return whether it has."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False


def test_command_has_streams_status_and_the_machines_variables(machine: Attached) -> None:
    result = machine.run("cat; echo $FIRST$SECOND >&2; exit 3", input="in\n", env={"SECOND": "2"})

    assert (result.stdout, result.stderr, result.exit_code) == ("in\n", "12\n", 3)


def test_command_that_fails_is_an_error_with_check(machine: Attached) -> None:
    with pytest.raises(CommandFailedError, match="exit status 1"):
        machine.run("exit 1", check=True)
    with pytest.raises(CommandError, match="no such program"):
        machine.run(["no-such-program"])


def test_user_who_cannot_enter_the_machines_directory_is_at_home(machine: Attached) -> None:
    machine._found = replace(machine.look(), cwd="/no/such")
    me = os.getuid()

    with pytest.raises(CommandError, match="cannot be the working directory"):
        machine.run("pwd")
    with pytest.raises(CommandError, match="cannot be the working directory"):
        machine.run("pwd", user=me, cwd="/no/such")
    assert machine.run("pwd", user=me).stdout == f"{Path.home()}\n"


def test_several_clients_have_operations_of_the_same_numbers(machine: Attached) -> None:
    others = [attach("box") for _ in range(3)]
    commands = [other.popen("read word; echo $word") for other in others]

    for number, command in enumerate(commands):
        assert command.stdin is not None
        command.stdin.write(b"%d\n" % number)
    said = [command.stdout.read() for command in commands]
    for other in others:
        other.close()

    assert said == [b"0\n", b"1\n", b"2\n"]


def test_much_output_and_input_come_whole(machine: Attached) -> None:
    data = os.urandom(1 << 23)

    result = machine.run(["cksum"], input=data)

    assert result.stdout.split()[1] == str(len(data))
    assert len(machine.run("head -c 9000000 /dev/zero").stdout) == 9000000


def test_reader_that_stands_still_holds_up_no_other(machine: Attached) -> None:
    with attach("box") as slow:
        still = slow.popen("cat /dev/zero")

        assert machine.run("echo on").stdout == "on\n"
        still.kill()


def test_command_of_a_client_that_goes_gets_sighup(machine: Attached, tmp_path: Path) -> None:
    told = tmp_path / "told"
    with attach("box") as other:
        command = other.popen(f"trap 'echo hup >{told}; exit' HUP; echo; sleep 60 & wait")
        command.stdout.readline()
        pid = command.pid

    assert pid is not None
    assert gone(pid)
    assert told.read_text() == "hup\n"


def test_files_go_in_and_out(machine: Attached, tmp_path: Path) -> None:
    (tmp_path / "tree" / "deep").mkdir(parents=True)
    (tmp_path / "tree" / "deep" / "file").write_text("text")

    machine.files.copy_in(tmp_path / "tree", tmp_path / "copy")
    machine.files.copy_out(tmp_path / "copy", tmp_path / "back")

    assert (tmp_path / "back" / "deep" / "file").read_text() == "text"


def test_what_was_printed_and_counted_is_there(machine: Attached) -> None:
    assert machine.output() == b"printed\n"
    assert machine.counters() == {"exits": 7}
    assert repr(machine) == "<ringlet.Attached box: none, 1 MiB, running>"
    assert [one.name for one in machines()] == ["box"]


def test_names_are_at_the_top_level(machine: Attached) -> None:
    assert ringlet.attach("box").state == "running"
    assert [one.name for one in ringlet.machines()] == ["box"]


def test_stop_lets_the_guest_end(machine: Attached) -> None:
    machine.stop()

    found = machine.look()
    assert (found.state, found.status, found.message) == ("ended", 0, "it was asked")
    assert machine.wait() == 0
    assert not (found.directory / "socket").exists()


def test_kill_ends_it_with_the_status_of_a_signal(machine: Attached) -> None:
    machine.kill()

    assert machine.wait() == 128 + signal.SIGKILL


def test_killed_process_is_seen_at_once_and_its_clients_hear_of_it(machine: Attached) -> None:
    command = machine.popen("sleep 60")

    os.kill(machine.pid, signal.SIGKILL)

    with pytest.raises(AgentError, match="has ended"):
        command.wait(PATIENCE)
    assert machine.state == "killed"
    assert machine.wait() == 137
    with pytest.raises(GuestEnded, match="box is not running; ringlet ps -a"):
        attach("box").run("true")


def test_command_that_the_end_interrupts_says_how_it_ended(machine: Attached) -> None:
    with pytest.raises(GuestEnded, match="box has ended: it was asked"):
        machine.run("echo; sleep 60", on_stdout=lambda data: attach("box").stop())


def test_process_that_stands_still_is_told_and_killed(
    machine: Attached, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "_PATIENCE_S", 0.2)
    monkeypatch.setattr(client, "_KILLING_S", 0.2)
    os.kill(machine.pid, signal.SIGSTOP)

    with pytest.raises(AgentError, match="does not answer; ringlet rm -f box ends it"):
        attach("box").counters()
    machine.kill()

    assert machine.state == "killed"


def test_wait_has_a_limit(machine: Attached) -> None:
    with pytest.raises(GuestTimeout, match=r"box is still running after 0\.1 s"):
        machine.wait(0.1)


def test_running_machine_is_not_removed_and_an_ended_one_is(machine: Attached) -> None:
    with pytest.raises(ConfigError, match="box is running; stop it, or ringlet rm -f box"):
        machine.remove()
    machine.kill()

    machine.remove()

    assert machine.state == "removed"


@pytest.mark.parametrize("end", [Attached.stop, Attached.kill, lambda one: os.kill(one.pid, 9)])
def test_nothing_remains_with_rm(runtime: Path, end: object) -> None:
    assert callable(end)
    with running(runtime, "brief", "--rm") as machine:
        end(machine)
        machine.wait()

        assert machine.state == "removed"
    assert machines() == []


def test_name_is_one_machines(machine: Attached, runtime: Path) -> None:
    with pytest.raises(AssertionError), running(runtime, "box"):
        """It cannot start: the name is taken."""

    assert machine.state == "running"


@pytest.mark.parametrize(
    ("request_", "answer"),
    [
        (b'{"version": 2, "do": "agent"}\n', b"the machine speaks version 1 of the protocol"),
        (b'{"version": 1, "do": "dance"}\n', b"dance: an unknown request"),
        (b"[]\n", b""),
        (b"nonsense\n", b""),
        (b'{"version": 1, "do": "stop", "timeout": "soon"}\n', b""),
        (b"x" * LONGEST_REQUEST, b""),
        (b"no end", b""),
        (b"", b""),
    ],
)
def test_request_that_cannot_be_harms_nothing(
    machine: Attached, request_: bytes, answer: bytes
) -> None:
    said = say(machine, request_)

    assert answer in said
    assert bool(said) == bool(answer)
    assert machine.run("echo on").stdout == "on\n"


def test_long_path_of_the_directory_is_no_obstacle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    deep.chmod(0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(deep))

    with running(deep, "box") as machine:
        assert machine.run("echo on").stdout == "on\n"
        assert find("box").directory == deep / "ringlet" / "machines" / "box"
