"""Commands that run while the program talks to them."""

import os
import signal
import threading
import time

import pytest

from ringlet.control.agent import Agent, Process
from ringlet.control.agent.channel import WINDOW
from ringlet.errors import CommandError, CommandTimeoutError, ConfigError


def read_until(agent_file: object, wanted: bytes) -> bytes:
    """Read from a process's output up to and including `wanted`."""
    seen = b""
    while wanted not in seen:
        part = agent_file.read1(1024)  # type: ignore[attr-defined]  # a BufferedReader
        assert part, seen
        seen += part
    return seen


def write_on(process: Process, data: bytes, pause: float) -> None:
    assert process.stdin is not None
    end = time.monotonic() + 20
    while time.monotonic() < end:
        process.stdin.write(data)
        time.sleep(pause)


def test_conversation_line_by_line(agent: Agent) -> None:
    with agent.popen(["cat"]) as process:
        assert process.stdin is not None
        for number in range(50):
            process.stdin.write(b"%d\n" % number)
            assert process.stdout.readline() == b"%d\n" % number
        assert process.poll() is None

    assert process.returncode == 0


def test_pid_is_the_guests(agent: Agent) -> None:
    with agent.popen("echo $$; cat") as process:
        assert process.stdout.readline() == b"%d\n" % (process.pid or 0)


def test_command_that_cannot_start_is_told_at_once(agent: Agent) -> None:
    with pytest.raises(CommandError, match="no such program"):
        agent.popen(["no-such"])


def test_read_gives_everything_up_to_the_end(agent: Agent) -> None:
    with agent.popen("seq 100000; echo err >&2") as process:
        assert process.stderr is not None
        assert process.stdout.read().count(b"\n") == 100_000
        assert process.stderr.read() == b"err\n"


def test_wait_in_vain_leaves_the_command_running(agent: Agent) -> None:
    process = agent.popen(["sleep", "1010"])

    with pytest.raises(CommandTimeoutError, match=r"still runs after 0\.1 s"):
        process.wait(0.1)

    assert process.poll() is None
    process.terminate()
    assert process.wait(20) == -signal.SIGTERM


def test_signal_reaches_the_children_too(agent: Agent) -> None:
    # The child is a program of its own only after a moment; until then it has the trap too.
    process = agent.popen(
        "trap 'echo got; exit 5' USR1; sleep 1011 & "
        "until grep -q sleep /proc/$!/comm; do :; done; echo on; wait"
    )
    process.stdout.readline()

    process.send_signal(signal.SIGUSR1)

    assert process.stdout.read() == b"got\n"
    assert process.wait(20) == 5
    assert "sleep 1011" not in agent.run("ps -e -o args 2>/dev/null || ps").stdout


def test_signal_after_the_end_is_nothing(agent: Agent) -> None:
    process = agent.popen("true")
    process.wait(20)

    process.kill()

    assert process.wait() == 0


@pytest.mark.parametrize("number", [0, -1, 65])
def test_signal_that_linux_does_not_have(agent: Agent, number: int) -> None:
    with agent.popen("true") as process, pytest.raises(ConfigError):
        process.send_signal(number)


def test_output_that_nobody_reads_waits_in_the_guest(agent: Agent) -> None:
    process = agent.popen(["head", "-c", "1000000000", "/dev/zero"])
    time.sleep(0.3)

    held = sum(len(output.data) for output in process.channel._outputs)
    assert held == WINDOW
    assert agent.run("echo others go on", timeout=20).exit_code == 0
    process.kill()
    assert WINDOW <= len(process.stdout.read()) < 2 * WINDOW
    assert process.wait(20) == -signal.SIGKILL


def test_slow_reader_gets_everything(agent: Agent) -> None:
    process = agent.popen(["head", "-c", "30000000", "/dev/zero"])
    size = 0
    while part := process.stdout.read(3_000_000):
        time.sleep(0.01)
        size += len(part)

    assert size == 30_000_000
    assert process.wait(20) == 0


def test_writer_waits_while_the_command_does_not_read(agent: Agent) -> None:
    process = agent.popen(["sleep", "1012"])
    done = threading.Event()

    def write() -> None:
        assert process.stdin is not None
        with pytest.raises(BrokenPipeError):
            process.stdin.write(bytes(10_000_000))
        done.set()

    thread = threading.Thread(target=write)
    thread.start()
    assert not done.wait(0.3)
    process.kill()
    thread.join(20)

    assert done.is_set()


def test_closed_output_ends_the_writer(agent: Agent) -> None:
    process = agent.popen(["cat", "/dev/zero"])

    process.stdout.close()

    assert process.wait(20) == -signal.SIGPIPE


def test_closed_input_of_the_command_breaks_the_pipe(agent: Agent) -> None:
    process = agent.popen("exec <&-; echo closed; sleep 1013")
    process.stdout.readline()
    assert process.stdin is not None

    with pytest.raises(BrokenPipeError):
        write_on(process, b"x", 0.01)

    process.kill()


def test_kill_while_data_flows_both_ways(agent: Agent) -> None:
    process = agent.popen(["cat"])
    assert process.stdin is not None
    threading.Timer(0.2, process.kill).start()

    with pytest.raises(BrokenPipeError):
        write_on(process, bytes(100_000), 0)

    assert process.wait(20) == -signal.SIGKILL


def test_leaving_by_an_exception_kills(agent: Agent) -> None:
    with pytest.raises(KeyError), agent.popen(["sleep", "1014"]) as process:
        raise KeyError

    assert process.wait(20) == -signal.SIGKILL


# --- terminals


def test_terminal_has_its_size_and_name(agent: Agent) -> None:
    result = agent.run("tty; stty size; echo $TERM", tty=True, size=(33, 99),
                       env={"TERM": "vt220"})  # fmt: skip

    name, size, term = result.stdout.replace("\r", "").split("\n")[:3]
    assert name.startswith("/dev/pts/")
    assert (size, term, result.stderr) == ("33 99", "vt220", "")


def test_new_size_is_told(agent: Agent) -> None:
    script = "trap 'stty size; exit' WINCH; echo on; while :; do sleep 0.05; done"
    process = agent.popen(script, tty=True)
    read_until(process.stdout, b"on\r\n")

    process.resize(50, 132)

    assert b"50 132" in process.stdout.read()
    assert process.wait(20) == 0


def test_control_c_interrupts_the_foreground(agent: Agent) -> None:
    process = agent.popen(["sleep", "1015"], tty=True)
    assert process.stdin is not None

    process.stdin.write(b"\x03")

    assert process.stdout.read() == b"^C"
    assert process.wait(20) == -signal.SIGINT


def test_job_control(agent: Agent) -> None:
    process = agent.popen(["bash", "--norc", "-i"], tty=True, env={"PS1": "ready> "})
    assert process.stdin is not None
    read_until(process.stdout, b"ready> ")

    process.stdin.write(b"sleep 1016\n")
    time.sleep(0.3)
    process.stdin.write(b"\x1a")
    read_until(process.stdout, b"Stopped")
    process.stdin.write(b"kill %1; fg; exit 4\n")

    assert process.wait(20) == 4


def test_end_of_input_is_a_terminals(agent: Agent) -> None:
    result = agent.run("cat; echo done", tty=True, input="typed\n", timeout=20)

    assert result.stdout.replace("\r", "").endswith("typed\ndone\n")


def test_all_output_of_a_terminal_arrives(agent: Agent) -> None:
    result = agent.run("seq 100000", tty=True, timeout=60)

    assert result.stdout.count("\n") == 100_000


def test_daemon_does_not_keep_a_terminal_open(agent: Agent) -> None:
    result = agent.run("setsid sleep 1017 & echo $!; sleep 0.1", tty=True, timeout=20)

    os.kill(int(result.stdout.split()[0]), signal.SIGKILL)


def test_repr_tells_the_state(agent: Agent) -> None:
    process = agent.popen("exit 6")
    process.wait(20)

    assert repr(process) == f"<Process 'exit 6' pid={process.pid} exit_code=6>"
