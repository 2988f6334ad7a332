"""The serial channel: frames to the guest, lines from it."""

import pytest

from ringlet.images.channel import END_OF_INPUT, FRAME_SIZE, StatusPort, frames, size_line


class Heard:
    def __init__(self) -> None:
        self.events: list[str | int] = []
        self.port = StatusPort(
            on_init=lambda: self.events.append("init"),
            on_ready=lambda: self.events.append("ready"),
            on_exit=self.events.append,
            on_next=lambda: self.events.append("next"),
            on_agent=lambda: self.events.append("agent"),
        )


@pytest.fixture
def heard() -> Heard:
    return Heard()


def test_a_frame_is_a_length_and_so_many_bytes() -> None:
    assert list(frames(b"a\n\0")) == [b"3\na\n\0"]


def test_long_input_comes_in_several_frames() -> None:
    parts = list(frames(b"x" * (2 * FRAME_SIZE + 1)))

    assert [len(part) for part in parts] == [FRAME_SIZE + 6, FRAME_SIZE + 6, 3]


def test_no_input_is_no_frame_and_not_the_end() -> None:
    assert list(frames(b"")) == []
    assert END_OF_INPUT == b"0\n"


def test_a_size_is_a_line() -> None:
    assert size_line(50, 132) == b"size 50 132\n"


def test_lines_are_understood_however_they_are_cut(heard: Heard) -> None:
    for byte in b"init\r\nready\nexit 17\r\n":
        heard.port(bytes([byte]))

    assert heard.events == ["init", "ready", 17]


def test_each_event_is_reported_once(heard: Heard) -> None:
    heard.port(b"init\ninit\nready\nready\nexit 1\nexit 2\n")

    assert heard.events == ["init", "ready", 1]


@pytest.mark.parametrize("first", ["ready", "agent"])
def test_a_command_runs_one_way(heard: Heard, first: str) -> None:
    heard.port(f"{first}\nready\nagent\n".encode())

    assert heard.events == [first]


def test_frames_are_asked_for_again_and_again(heard: Heard) -> None:
    heard.port(b"ready\nnext\nnext\nnext")

    assert heard.events == ["ready", "next", "next"]


@pytest.mark.parametrize(
    "line",
    [b"", b"exit", b"exit ", b"exit -1", b"exit 256", b"exit 1 2", b" exit 1", b"exit \xb2",
     b"Ready", b"\0", b"exit 9999999999", b"x" * 5000, b"x" * 64 + b"exit 1"],
)  # fmt: skip
def test_anything_else_is_dropped(heard: Heard, line: bytes) -> None:
    heard.port(line + b"\n")

    assert heard.events == []


def test_an_endless_line_takes_no_memory(heard: Heard) -> None:
    heard.port(b"x" * 100_000)

    assert len(heard.port._line) <= 64
