"""What a guest prints cannot control the terminal on which its log is shown."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringlet.cli.harmless import Harmless


def shown(*parts: bytes) -> bytes:
    seen = bytearray()
    sink = Harmless(seen.extend)
    for part in parts:
        sink(part)
    return bytes(seen)


@pytest.mark.parametrize(
    ("printed", "kept"),
    [
        (b"text\r\n\ttab", b"text\r\n\ttab"),
        ("Grüße €".encode(), "Grüße €".encode()),
        (b"\x1b[1;32mOK\x1b[0m", b"\x1b[1;32mOK\x1b[0m"),
        (b"a\x1b[6nb", b"ab"),
        (b"a\x1b[2J\x1b[Hb", b"ab"),
        (b"a\x1b]0;title\x07b", b"ab"),
        (b"a\x1b]52;c;cm0=\x1b\\b", b"ab"),
        (b"a\x1bPq#0\x1b\\b", b"ab"),
        (b"a\x1bcb", b"ab"),
        (b"a\x1b(0b", b"ab"),
        (b"a\x1b[?1049hb", b"ab"),
        (b"\x07\x08\x00\x7f\x0e", b""),
        ("a\x9b6nb".encode(), b"a6nb"),
    ],
)
def test_text_and_colours_are_kept(printed: bytes, kept: bytes) -> None:
    assert shown(printed) == kept
    assert shown(*(bytes([byte]) for byte in printed)) == kept


def test_sequence_without_an_end_is_given_up() -> None:
    assert shown(b"\x1b]0;" + b"x" * 5000, b"text").endswith(b"text")


@given(st.lists(st.binary(max_size=20) | st.sampled_from([b"\x1b", b"\x1b[", b"\x1b]", b"m"])))
def test_only_colours_have_escapes(parts: list[bytes]) -> None:
    seen = shown(*parts)

    assert b"\x1b" not in b"".join(
        part.partition(b"m")[2] for part in seen.split(b"\x1b[")[1:]
    )
    assert not set(seen) & {0, 7, 8, 14, 15, 127}
