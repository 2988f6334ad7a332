"""The program's end of a guest's console."""

import re
import threading

import pytest

from ringlet.control.console import KEPT, Console
from ringlet.errors import GuestPanic, GuestTimeout


def test_expect_returns_up_to_the_match_and_keeps_the_rest() -> None:
    console = Console(lambda: None)
    console.take(b"login: \xc3\xbc# rest")

    assert console.expect("# ") == "login: \u00fc# "
    assert console.expect(re.compile("r..t")) == "rest"
    assert console.output() == ""


def test_expect_waits_for_another_thread() -> None:
    console = Console(lambda: None)
    timer = threading.Timer(0.02, console.take, (b"late",))
    timer.start()

    assert console.expect("late") == "late"
    timer.join()


def test_expect_reports_the_output_that_it_got() -> None:
    console = Console(lambda: None)
    console.take(b"something else")

    with pytest.raises(TimeoutError, match="no '# '; the last output: 'something else'"):
        console.expect("# ", timeout=0.01)
    with pytest.raises(GuestTimeout, match=r"no /\\d\+ \$/; the last"):
        console.expect(re.compile(r"\d+ $"), timeout=0.01)
    console.end()
    with pytest.raises(EOFError, match="something else"):
        console.expect("# ")


def test_expect_reports_a_panic() -> None:
    console = Console(lambda: None)
    console.end(GuestPanic("the kernel panicked", "its last lines"))
    console.end()

    with pytest.raises(GuestPanic, match="panicked") as caught:
        console.expect("# ")
    assert caught.value.console == "its last lines"


def test_output_is_bounded() -> None:
    console = Console(lambda: None)
    for _ in range(3):
        console.take(b"x" * KEPT)

    assert len(console.output()) == KEPT


def test_sent_text_wakes_the_machine() -> None:
    woken: list[int] = []
    console = Console(lambda: woken.append(1))
    console.send("ls\n")

    assert woken == [1]
    assert console.backlog.take(10) == b"ls\n"


def test_nothing_is_sent_to_a_guest_that_has_ended() -> None:
    console = Console(lambda: None)
    console.end()

    with pytest.raises(EOFError, match="the guest has ended"):
        console.send("ls\n")


def test_question_for_the_cursor_is_not_output() -> None:
    console = Console(lambda: None)
    console.take(b"~ # \x1b[6")
    console.take(b"nuname\r\n")

    assert console.output() == "~ # uname\r\n"
