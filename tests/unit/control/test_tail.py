"""The end of a console's output, which says why a guest ended."""

import pytest

from ringlet.control.tail import KEPT, LINES, Tail

PANIC = b"[    1.2] Kernel panic - not syncing: Attempted to kill init! exitcode=0x0\r\n"


def tail(*parts: bytes) -> Tail:
    made = Tail()
    for part in parts:
        made.take(part)
    return made


def test_panic_is_found_in_pieces_and_kept() -> None:
    assert tail(PANIC[:20], PANIC[20:]).panic() == "Attempted to kill init! exitcode=0x0"
    assert tail(PANIC, b"x" * 2 * KEPT).panic() == "Attempted to kill init! exitcode=0x0"
    assert tail(PANIC[:-2]).panic() == "Attempted to kill init! exitcode=0x0"


def test_the_first_panic_counts() -> None:
    assert tail(PANIC, PANIC.replace(b"Attempted", b"again")).panic().startswith("Attempted")


@pytest.mark.parametrize("text", [b"", b"reboot: Restarting system\r\n", b"Kernel panic"])
def test_reset_without_a_panic(text: bytes) -> None:
    assert tail(text).panic() == ""


def test_panic_without_a_reason() -> None:
    assert tail(b"Kernel panic - not syncing: \x1b[31m\r").panic() == "it gave no reason"


def test_a_guest_may_print_anything() -> None:
    odd = tail(b"Kernel panic - not syncing: \xff\x00\x1b[2J" + b"y" * 1000 + b"\r\n")

    assert odd.panic() == "\ufffd" + "y" * (200 - 6)
    assert all(line.isprintable() for line in odd.text().splitlines())


def test_halt() -> None:
    assert tail(b"[ 1.0] reboot: System halted\r\n").halted()
    assert not tail(b"[ 1.0] reboot: System halted\r\n", b"x" * 300).halted()


def test_text_is_bounded() -> None:
    lines = tail(b"line\r\n" * 10_000).text().splitlines()

    assert lines == ["line"] * LINES


def test_clear() -> None:
    cleared = tail(PANIC)
    cleared.clear()

    assert (cleared.panic(), cleared.text()) == ("", "")


def test_sink_passes_everything_on() -> None:
    seen: list[bytes] = []
    made = Tail()
    sink = made.before(seen.append)
    sink(b"a")
    sink(b"b")

    assert (seen, made.text()) == ([b"a", b"b"], "ab")


def test_complaint_that_is_long_is_cut_and_not_lost() -> None:
    long = tail(b"[ 1.0] ok\r\nringlet: the kernel has no " + b"x" * 500 + b"\r\nPower down\r\n")

    assert long.complaint() == "the kernel has no " + "x" * (300 - 18)
