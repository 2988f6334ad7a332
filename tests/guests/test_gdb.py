"""The real gdb on a bare program: what a user of `ringlet run --bare --gdb` does."""

import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.guests.build_guest import CFLAGS, GUESTS
from tests.guests.gdb_session import Session, needs_gdb, pipe

pytestmark = needs_gdb


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    image = tmp_path_factory.mktemp("gdb") / "target.elf"
    source = GUESTS / "debug/target.c"
    flags = [flag for flag in CFLAGS if flag != "-Werror"]
    command = ["gcc", *flags, "-Wl,-Ttext=0x200000", "-Wl,--build-id=none"]
    command += ["-Wl,-z,max-page-size=4096", "-Wl,-e,_start", "-o", str(image), str(source)]
    subprocess.run(command, check=True, timeout=60)
    return image


@pytest.fixture
def session(program: Path) -> Iterator[Session]:
    session = Session(["--bare", program], program)
    yield session
    session.close()


def test_break_at_a_symbol_and_backtrace(session: Session) -> None:
    session.ask("break leaf")

    assert "Breakpoint 1, leaf (n=1)" in session.ask("continue")
    frames = session.ask("bt")
    assert re.search(r"#0 .*leaf \(n=1\).*#1 .*middle \(n=1\).*#2 .*_start \(\)", frames, re.DOTALL)
    assert "leaf (n=2)" in session.ask("continue")


def test_steps(session: Session) -> None:
    session.ask("break leaf")
    session.ask("continue")
    before = session.ask("print/x $pc")
    session.ask("stepi")

    assert session.ask("print/x $pc").split("=")[1] != before.split("=")[1]
    assert "Run till exit" in session.ask("finish")
    assert "middle" in session.ask("info symbol $pc")
    assert "= 1" in session.ask("print counter")


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("watch counter", "Old value = 0\nNew value = 1"),
        ("rwatch counter", "Value = "),
        ("awatch counter", "Value = 0"),
    ],
)
def test_watchpoint(session: Session, command: str, says: str) -> None:
    session.ask("break middle")
    session.ask("continue")
    session.ask("delete")
    session.ask(command)

    assert says in session.ask("continue")


def test_interrupt_then_registers_and_memory_are_written(session: Session) -> None:
    session.tell("continue")
    assert pipe(session.machine.stdout).read(1) == "I"
    session.gdb.send_signal(signal.SIGINT)

    assert "SIGINT" in session.heard()
    assert "_start" in session.ask("bt 1")
    session.ask("set $r15 = 0x123456789abcdef0")
    assert "0x123456789abcdef0" in session.ask("print/x $r15")
    session.ask("set $xmm3.uint128 = 77")
    assert "= 77" in session.ask("print $xmm3.uint128")
    session.ask("set var counter = 20")
    session.ask("set var spinning = 0")
    assert "exited with code 051" in session.ask("continue")  # 20 * 2 + 1
    assert session.ends()[1] == 41


def test_memory_that_is_not_there(session: Session) -> None:
    assert "Cannot access memory" in session.ask("x/8xb 0xffff800000000000")
    assert "Cannot access memory" in session.ask("set var *(char *)0xffff800000000000 = 1")


def test_detached_guest_runs_on(session: Session) -> None:
    session.ask("break leaf")
    session.ask("continue")
    session.ask("set var spinning = 0")
    session.ask("detach")

    assert session.ends() == ("I", 21)


def test_guest_of_a_gdb_that_died_runs_on(session: Session) -> None:
    session.ask("break leaf")
    session.ask("continue")
    session.ask("set var spinning = 0")
    session.gdb.kill()

    assert session.ends() == ("I", 21)


def test_killed_guest(session: Session) -> None:
    session.ask("kill")

    assert session.ends() == ("", 128 + 9)


def test_triple_fault_stops_in_gdb(session: Session) -> None:
    session.ask("set var spinning = 0")
    session.ask("set var dying = 1")

    said = session.ask("continue")

    assert "triple fault" in said
    assert "SIGABRT" in said
    assert "ud2" in session.ask("x/i $pc")
    assert "exited with code 03" in session.ask("continue")
    assert session.ends()[1] == 3


def test_signal_to_a_machine_that_stands_still(session: Session) -> None:
    session.machine.send_signal(signal.SIGTERM)

    assert session.ends()[1] == 143


def test_unix_socket(program: Path, tmp_path: Path) -> None:
    session = Session(["--bare", program], program, str(tmp_path / "socket"))
    try:
        assert (tmp_path / "socket").stat().st_mode & 0o777 == 0o600
        assert "_start" in session.ask("info symbol $pc")
        session.ask("set var spinning = 0")
        session.ask("detach")
        assert session.ends()[1] == 21
        assert not (tmp_path / "socket").exists()
    finally:
        session.close()
