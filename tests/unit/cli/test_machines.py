"""The commands ps, logs, cp and others, without a guest."""

import json
from pathlib import Path

import pytest

from ringlet.cli.main import main
from ringlet.control.background.places import Place
from tests.unit.control.background.machine import running


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "runtime"
    directory.mkdir(0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(directory))
    return directory


def ended(name: str, **about: object) -> Place:
    place = Place.claim(name, {"guest": "debian", "memory": 512 << 20, **about})
    place.end(3, "the guest's kernel panicked")
    return place


def test_ps_lists_what_runs_and_with_a_what_has_ended(
    runtime: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ended("old", ports=["8080:80"])
    with running(runtime, "new") as machine:
        assert main(["ps"]) == 0
        shown = capsys.readouterr().out
        assert main(["ps", "-a"]) == 0
        everything = capsys.readouterr().out
        pid = machine.pid

    assert [line.split()[0] for line in shown.splitlines()] == ["NAME", "new"]
    old, new = everything.splitlines()[1:]
    assert old.split()[:6] == ["old", "debian", "512", "MiB", "ended", "(3)"]
    assert "8080:80" in old
    assert new.split()[-1] == str(pid)


def test_ps_prints_nothing_that_a_terminal_obeys(
    runtime: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ended("odd", guest="\x1b[2J\x07\u202e" + "x" * 100, ports=["\n\x9b6n"])

    assert main(["ps", "-a"]) == 0

    head, line = capsys.readouterr().out.splitlines()
    assert head.isprintable()
    assert line.isprintable()
    assert r"\x1b[2J\x07\u202exxx" in line
    assert len(line) < 120


def test_ps_as_json_is_for_programs(runtime: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ended("old", command=["true"])

    assert main(["ps", "-a", "--json"]) == 0

    (one,) = json.loads(capsys.readouterr().out)
    assert (one["name"], one["state"], one["status"]) == ("old", "ended", 3)
    assert (one["command"], one["pid"]) == (["true"], 0)


def test_ps_with_q_prints_names_alone(runtime: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ended("old")
    ended("older")

    assert main(["ps", "-aq"]) == 0

    assert capsys.readouterr().out == "old\nolder\n"


@pytest.mark.parametrize("words", [["--tail", "1"], ["-n1"], ["-n", "1", "-f"]])
def test_logs_has_the_last_lines_alone(
    runtime: Path, capfdbinary: pytest.CaptureFixture[bytes], words: list[str]
) -> None:
    (ended("old").directory / "console.log").write_bytes(b"first\nlast\n")

    assert main(["logs", *words, "old"]) == 0

    assert capfdbinary.readouterr().out == b"last\n"


def test_logs_has_the_output_and_why_it_ended(
    runtime: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    place = ended("old")
    (place.directory / "console.log").write_bytes(b"\x1b[2Jprinted\n")

    assert main(["logs", "old"]) == 0

    out, err = capfdbinary.readouterr()
    assert (out, err) == (b"\x1b[2Jprinted\n", b"ringlet: the guest's kernel panicked\n")


def test_files_are_copied_both_ways(runtime: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    with running(runtime, "box"):
        assert main(["cp", str(tmp_path / "file"), f"box:{tmp_path}/in"]) == 0
        assert main(["cp", f"box:{tmp_path}/in", f"{tmp_path}/out"]) == 0

    assert (tmp_path / "out").read_text() == "text"


def test_file_that_cannot_be_copied_is_named(
    runtime: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with running(runtime, "box"):
        assert main(["cp", "/none/such", "box:/"]) == 2

    assert capsys.readouterr().err == (
        "ringlet: /none/such: No such file or directory (on the host)\n"
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["cp", "-", "box:/x"], "-: cp copies files, not a stream; use `ringlet exec -i"),
        (["cp", "a:/x", "b:/y"], "both are guests' files; copy to the host first"),
        (["cp", "./a:b", "c"], "no machine is named"),
        (["cp", "nobody:/x", "c"], "nobody: there is no such machine"),
        (["exec", "nobody", "ls"], "nobody: there is no such machine; ringlet ps -a lists all"),
        (["exec", "nobody"], "Missing argument 'command'"),
        (["exec", "nobody", "--"], "no command; ringlet shell nobody gives a shell"),
        (["exec", "-w", "tmp", "nobody", "ls"], "-w tmp: give an absolute path of the guest"),
        (["exec", "nobody", "ls", "-d"], "nobody: there is no such machine"),
        (["exec", "nobody", "mkdir", "--privileged", "-t"], "nobody: there is no such machine"),
        (["exec", "-d", "nobody", "ls"], "-d: give sh -c 'COMMAND >/tmp/log 2>&1 &'"),
        (["logs", "--since=1h", "nobody"], "--since: the log has no times; give --tail N"),
        (["logs", "nobody", "--since", "1h"], "--since: the log has no times"),
        (["logs", "nobody", "--tail", "-1"], "Invalid value for '--tail'"),
        (["ps", "--filter", "a=b"], "--filter: give --json"),
        (["ps", "-q", "--json"], "--json and -q: give one of them"),
        (["top", "nobody"], "top: give ringlet exec NAME ps"),
        (["version"], "version: give ringlet --version"),
        (["run", "--kdir", ".", "debian"], "--kdir: give --kernel DIR/arch/x86/boot/bzImage"),
        (["run", "--mount", "type=bind", "debian"], "--mount: give -v HOST:GUEST"),
        (["exec", "-t", "nobody", "ls"], "-t: standard input is not a terminal"),
        (["stop", "-t", "soon", "nobody"], "-t 'soon': not a time"),
        (["rm", "no/body"], "'no/body' cannot be a machine's name"),
        (["run", "-d", "--name", "a b", "busybox"], "'a b' cannot be a machine's name"),
        (["run", "-d", "--console", "none", "debian"], "--console has no effect with -d"),
    ],
)
def test_mistake_is_one_line(
    runtime: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert main(words) == 2

    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_each_name_is_answered_and_errors_are_told(
    runtime: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ended("one")
    ended("two")

    assert main(["rm", "one", "nobody", "two"]) == 2

    out, err = capsys.readouterr()
    assert out.split() == ["one", "two"]
    assert err == "ringlet: nobody: there is no such machine; ringlet ps -a lists all\n"


def test_running_machines_are_stopped_killed_and_removed(
    runtime: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with running(runtime, "one") as one, running(runtime, "two") as two:
        assert main(["rm", "one"]) == 2
        assert "one is running" in capsys.readouterr().err
        assert main(["stop", "one"]) == 0
        assert main(["kill", "two"]) == 0
        assert (one.look().status, two.look().status) == (0, 137)
    with running(runtime, "three") as three:
        assert main(["rm", "-f", "three"]) == 0
        assert three.state == "removed"


def test_words_after_the_name_are_the_commands(
    runtime: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    with running(runtime, "box"):
        status = main(["exec", "-e", "A=1", "box", "--", "sh", "-c", "echo $A$FIRST; exit 4", "-i"])

    assert status == 4
    assert capfdbinary.readouterr().out == b"11\n"
