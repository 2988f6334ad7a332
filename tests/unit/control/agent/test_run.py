"""Commands that run to their end."""

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from ringlet.control.agent import Agent
from ringlet.control.agent import command as command_module
from ringlet.errors import (
    AgentError,
    CommandError,
    CommandFailedError,
    CommandTimeoutError,
    ConfigError,
    RingletError,
)

ROOT_ONLY = pytest.mark.skipif(os.getuid() != 0, reason="only root becomes another user")


def test_outputs_and_status_are_returned(agent: Agent) -> None:
    result = agent.run("echo out; echo err >&2; exit 3")

    assert (result.stdout, result.stderr, result.exit_code) == ("out\n", "err\n", 3)
    assert not result.ok
    assert 0 < result.duration < 20


def test_arguments_arrive_as_they_are(agent: Agent) -> None:
    words = ["a b", "", "'", "$HOME", "\n", "\u00e9", "\udcff", "-n"]

    result = agent.run(["printf", "%s|", *words])

    assert result.stdout == "".join(f"{word}|" for word in words)


def test_bytes_are_returned_unchanged(agent: Agent) -> None:
    data = bytes(range(256)) * 9

    result = agent.run(["cat"], input=data, text=False)

    assert result.stdout == data


def test_input_larger_than_all_windows_comes_back(agent: Agent) -> None:
    data = os.urandom(1 << 16) * 48

    result = agent.run(["cat"], input=data, text=False, timeout=60)

    assert result.stdout == data


def test_without_input_it_is_empty(agent: Agent) -> None:
    assert agent.run(["cat"], timeout=20).stdout == ""
    assert agent.run("readlink /proc/self/fd/0").stdout == "/dev/null\n"


def test_command_that_does_not_read_its_input_ends(agent: Agent) -> None:
    result = agent.run("exec <&-; echo done", input=b"x" * (1 << 20), timeout=20)

    assert result.stdout == "done\n"


def test_functions_get_the_outputs(agent: Agent) -> None:
    out: list[bytes] = []
    err: list[bytes] = []

    result = agent.run("echo a; echo b >&2", on_stdout=out.append, on_stderr=err.append)

    assert (b"".join(out), b"".join(err)) == (b"a\n", b"b\n")
    assert (result.stdout, result.stderr) == ("", "")


def test_exception_of_a_function_kills_the_command(agent: Agent) -> None:
    def refuse(_: bytes) -> None:
        raise KeyError("enough")

    with pytest.raises(KeyError):
        agent.run("echo $$; exec sleep 1000", on_stdout=refuse, timeout=20)

    assert "sleep 1000" not in agent.run("ps -e -o args 2>/dev/null || ps").stdout


def test_errors_are_in_the_output_if_merged(agent: Agent) -> None:
    assert agent.run("echo a; echo b >&2", merge=True).stdout == "a\nb\n"


def test_check_raises_with_the_result(agent: Agent) -> None:
    with pytest.raises(CommandFailedError, match="exit status 7: sorry") as caught:
        agent.run("echo sorry >&2; exit 7", check=True)

    assert getattr(caught.value.result, "exit_code", None) == 7


def test_message_is_one_line_that_no_terminal_obeys(agent: Agent) -> None:
    with pytest.raises(CommandFailedError, match=r"status 1: a / \\x1b\]0;b\\x07\\udcff") as caught:
        agent.run(r"printf 'a\n\033]0;b\007\377' >&2; exit 1", check=True)

    assert str(caught.value).isprintable()


def test_end_by_a_signal_has_its_name(agent: Agent) -> None:
    result = agent.run("kill -SEGV $$")

    assert result.exit_code == -signal.SIGSEGV
    with pytest.raises(CommandFailedError, match="ended by SIGSEGV"):
        result.check()


def test_timeout_kills_the_whole_group_and_keeps_the_output(agent: Agent) -> None:
    began = time.monotonic()

    with pytest.raises(CommandTimeoutError, match=r"killed after 0\.5 s") as caught:
        agent.run("echo begun; sleep 1001 & sleep 1001; echo not", timeout=0.5)

    assert caught.value.stdout == "begun\n"
    assert isinstance(caught.value, TimeoutError)
    assert time.monotonic() - began < 5
    assert "sleep 1001" not in agent.run("ps -e -o args 2>/dev/null || ps").stdout


def test_command_that_leaves_a_daemon_ends_at_once(agent: Agent) -> None:
    began = time.monotonic()

    result = agent.run("sleep 1002 & echo $!", timeout=20)

    assert time.monotonic() - began < 10
    agent.run(["kill", result.stdout.strip()], check=True)


def test_all_that_was_printed_before_the_end_arrives(agent: Agent) -> None:
    result = agent.run("sleep 1003 & head -c 3000000 /dev/zero; kill $!", timeout=60)

    assert len(result.stdout) == 3_000_000


def test_environment_is_a_logins_and_what_is_given(agent: Agent) -> None:
    lines = agent.run(["env"], env={"A": "1 \n2", "HOME": "/over"}).stdout

    assert "A=1 \n2\n" in lines
    assert "HOME=/over\n" in lines
    assert lines.count("HOME=") == 1
    assert "PATH=" in lines
    assert "PYTEST" not in lines


def test_environment_can_be_only_what_is_given(agent: Agent) -> None:
    assert agent.run(["/usr/bin/env"], env={"A": "1"}, only_env=True).stdout == "A=1\n"


def test_program_is_found_without_a_path(agent: Agent) -> None:
    assert agent.run(["env"], env={"A": "1"}, only_env=True).stdout == "A=1\n"


def test_program_is_looked_for_in_the_given_path(agent: Agent, tmp_path: Path) -> None:
    program = tmp_path / "hello"
    program.write_text("#!/bin/sh\necho hello\n")
    program.chmod(0o755)

    assert agent.run(["hello"], env={"PATH": f"/nowhere::{tmp_path}"}).stdout == "hello\n"


@ROOT_ONLY
def test_directory_of_the_path_that_is_closed_holds_no_programs(
    agent: Agent, tmp_path: Path
) -> None:
    (tmp_path / "program").touch(0o755)
    tmp_path.chmod(0o700)

    with pytest.raises(CommandError, match="'program': no such program in the guest's PATH"):
        agent.run(["program"], user="daemon", env={"PATH": str(tmp_path)})
    assert agent.run(["id", "-un"], user="daemon",
                     env={"PATH": f"{tmp_path}:/usr/bin"}).stdout == "daemon\n"  # fmt: skip


def test_directory(agent: Agent, tmp_path: Path) -> None:
    assert agent.run(["pwd"], cwd=tmp_path).stdout == f"{tmp_path}\n"


def test_size_of_the_environment_is_bounded(agent: Agent) -> None:
    with pytest.raises(ConfigError, match="put them in a file"):
        agent.run(["true", "x" * 300_000])

    assert len(agent.run(["echo", "x" * 100_000]).stdout) == 100_001


@pytest.mark.parametrize(
    ("argv", "options", "message", "status"),
    [
        (["no-such"], {}, "'no-such': no such program in the guest's PATH", 127),
        (["/no/such"], {}, "'/no/such': no such program in the guest", 127),
        (["ls /; false"], {}, ("'ls /; false': no such program in the guest; for a line of the "
         "shell, give sh -c '...'"), 127),
        (["a|b"], {}, ("'a|b': no such program in the guest; for a line of the shell, give "
         "sh -c '...'"), 127),
        (["no such", "-x"], {}, "'no such': no such program in the guest's PATH", 127),
        (["/etc/passwd"], {}, "'/etc/passwd': not executable in the guest; see its mode", 126),
        (["/tmp"], {}, "/tmp: cannot be started in the guest: Is a directory", 126),
        (["true"], {"cwd": "/no/such"},
         "'/no/such': cannot be the working directory: No such file or directory", 127),
        (["true"], {"user": "nobody-here"},
         "'nobody-here': no such user or group in the guest", 127),
        (["true"], {"user": "0:nobody-here"},
         "'0:nobody-here': no such user or group in the guest", 127),
    ],
)  # fmt: skip
def test_command_that_cannot_start_is_one_clear_error(
    agent: Agent, argv: list[str], options: dict[str, str], message: str, status: int
) -> None:
    with pytest.raises(CommandError) as caught:
        agent.run(argv, cwd=options.get("cwd"), user=options.get("user"))

    assert str(caught.value) == message
    assert caught.value.exit_status == status


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("echo no interpreter\n", "no program for this guest"),
        ("#!/no/such/sh\n", "the interpreter or loader that it names is not in the guest"),
    ],
)
def test_script_that_has_no_interpreter(
    agent: Agent, tmp_path: Path, text: str, message: str
) -> None:
    script = tmp_path / "script"
    script.write_text(text)
    script.chmod(0o755)

    with pytest.raises(CommandError, match=message):
        agent.run([script])


@pytest.mark.parametrize(
    "bad",
    [
        {"argv": []}, {"argv": [""]}, {"argv": ["a\0b"]}, {"argv": "true", "env": {"A=B": "1"}},
        {"argv": "true", "env": {"A": "\0"}}, {"argv": "true", "tty": True, "size": (-1, 5)},
    ],
)  # fmt: skip
def test_what_no_guest_can_run_is_refused(agent: Agent, bad: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        agent.run(**bad)  # type: ignore[call-overload]  # some of it is wrong


def test_own_user_by_number(agent: Agent) -> None:
    uid, gid = os.getuid(), os.getgid()

    assert agent.run("id -u; id -g", user=f"{uid}:{gid}").stdout == f"{uid}\n{gid}\n"


@ROOT_ONLY
def test_other_user_by_name_has_its_groups_and_home(agent: Agent) -> None:
    result = agent.run("id -un; id -gn; echo $HOME $USER; touch /usr/x", user="daemon")

    assert result.stdout == "daemon\ndaemon\n/usr/sbin daemon\n"
    assert "denied" in result.stderr


@ROOT_ONLY
def test_group_can_be_given(agent: Agent) -> None:
    assert agent.run("id -un; id -gn", user="daemon:sys").stdout == "daemon\nsys\n"
    assert agent.run("id -u; id -g; id -G", user="1234:5678").stdout == "1234\n5678\n5678\n"


def test_a_hundred_commands_at_once(agent: Agent) -> None:
    outputs: dict[int, str] = {}

    def one(number: int) -> None:
        outputs[number] = agent.run(f"cat; sleep 0.2; echo {number}", input=f"{number} ").stdout

    threads = [threading.Thread(target=one, args=(number,)) for number in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert outputs == {number: f"{number} {number}\n" for number in range(100)}


def test_more_commands_than_the_agent_has_room_for_are_refused(agent: Agent) -> None:
    running = [agent.popen(["sleep", "1004"]) for _ in range(256)]

    with pytest.raises(CommandError, match="wait for others"):
        agent.run("true")

    for process in running:
        process.kill()
    assert {process.wait(20) for process in running} == {-signal.SIGKILL}
    assert agent.run("echo again").stdout == "again\n"


def test_no_child_is_left_as_a_zombie(agent: Agent) -> None:
    for _ in range(5):
        agent.run("true")

    mine = agent.info().agent_pid
    states = agent.run(f"cat /proc/{mine}/task/{mine}/children").stdout.split()
    assert len(states) == 1


def test_no_descriptor_of_the_agent_reaches_a_command(agent: Agent) -> None:
    with agent.popen("cat") as other:
        assert agent.run("ls /proc/self/fd", env={"LC_ALL": "C"}).stdout == "0\n1\n2\n3\n"
        assert other.stdin is not None


def test_signals_are_as_usual_in_a_command(agent: Agent) -> None:
    mine = {line.split(":")[0]: line.split(":")[1].strip()
            for line in agent.run("cat /proc/self/status").stdout.splitlines()}  # fmt: skip

    assert int(mine["SigBlk"], 16) == 0
    assert int(mine["SigIgn"], 16) == 0


def test_output_without_end_is_stopped(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command_module, "MAX_OUTPUT", 1 << 22)

    with pytest.raises(CommandFailedError, match="printed more than 4 MiB and was killed"):
        agent.run("cat /dev/zero", timeout=60)


def test_close_from_another_thread_ends_a_call(agent: Agent) -> None:
    threading.Timer(0.3, agent.close).start()

    with pytest.raises(AgentError, match="closed"):
        agent.run(["sleep", "1005"])


def test_end_of_the_connection_hangs_up(agent: Agent, tmp_path: Path) -> None:
    told = tmp_path / "told"
    shell = agent.popen(
        f"trap 'echo > {told}; exit' HUP; sleep 1006 & "
        "until grep -q sleep /proc/$!/comm; do :; done; echo on; wait"
    )
    shell.stdout.readline()

    agent.close()

    end = time.monotonic() + 10
    while not told.exists() and time.monotonic() < end:
        time.sleep(0.01)
    assert told.exists()


def test_result_shows_what_matters(agent: Agent) -> None:
    text = repr(agent.run("echo out; seq 100 >&2"))

    assert text.startswith("<Result 'echo out; seq 100 >&2': exit_code=0, stdout='out\\n', ")
    assert len(text) < 250


def test_every_error_is_a_users() -> None:
    assert issubclass(CommandTimeoutError, RingletError)
    assert issubclass(CommandFailedError, RingletError)


@pytest.mark.parametrize(
    ("command", "message"),
    [(5, "^5 is no command; give a line for"), (["ls", 5], "^an argument .* a path, not 5$")],
)
def test_what_is_no_command_is_a_line(agent: Agent, command: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        agent.run(command)
