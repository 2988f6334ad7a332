"""Sizes of memory, as people write them and as they get them wrong."""

import pytest

from ringlet.config import (
    DEBIAN_LEAST,
    format_size,
    linux_memory,
    parse_direct,
    parse_memory,
    parse_seconds,
)
from ringlet.errors import ConfigError

GIB = 1 << 30


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("128M", 128 << 20),
        ("128m", 128 << 20),
        ("128MiB", 128 << 20),
        ("128MB", 128 << 20),
        (" 1G ", GIB),
        ("2048K", 2 << 20),
        ("4194304", 4 << 20),
        ("512", 512 << 20),
        ("2097152", 2 << 20),
        ("1.5G", 3 * GIB // 2),
        ("2.5m", 5 << 19),
        ("0x400000", 4 << 20),
    ],
)
def test_sizes_that_are_understood(text: str, size: int) -> None:
    assert parse_memory(text, 8 * GIB) == size


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0", "a machine needs RAM"),
        ("0M", "a machine needs RAM"),
        ("-128M", "a machine needs RAM"),
        ("4195000", "is not a multiple of 4 KiB; the next larger multiple is 4100K"),
        ("1", "too small; give at least 2M"),
        ("1048576", "too small; give at least 2M"),
        ("9G", "this host has 8 GiB of RAM"),
        ("99999999T", "this host has 8 GiB of RAM"),
        ("1" * 400, "not a size"),
        ("lots", "not a size"),
        ("", "not a size"),
        ("M", "not a size"),
        ("1.5", "not a size"),
        (".5G", "not a size"),
        ("1.2.5G", "not a size"),
        ("2.0001M", "is not a multiple of 4 KiB"),
        ("1_000M", "not a size"),
        ("0x", "not a size"),
        ("128X", "not a size"),
        ("١٢٨M", "not a size"),
        ("1e3M", "not a size"),
    ],
)
def test_sizes_that_are_refused_in_a_line(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_memory(text, 8 * GIB)

    assert message in str(caught.value)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 bytes"), (4096, "4 KiB"), (128 << 20, "128 MiB"), (25 * GIB // 2, "12.5 GiB")],
)
def test_sizes_as_shown(size: int, text: str) -> None:
    assert format_size(size) == text


@pytest.mark.parametrize(
    ("given", "host", "size"),
    [
        (None, 8 * GIB, GIB),
        ("", 8 * GIB, GIB),
        ("512M", 8 * GIB, GIB // 2),
        (GIB // 4, 8 * GIB, GIB // 4),
        (None, GIB + 4097, GIB // 2),
    ],
)
def test_memory_of_linux(given: str | int | None, host: int, size: int) -> None:
    assert linux_memory(given, host) == size


@pytest.mark.parametrize("given", ["95M", "1M", 64])
def test_debian_needs_more(given: str | int) -> None:
    assert linux_memory("96M", 8 * GIB, least=DEBIAN_LEAST) == 96 << 20
    with pytest.raises(ConfigError, match=f"--memory {given}: too small; give at least 96M"):
        linux_memory(given, 8 * GIB, least=DEBIAN_LEAST)


def test_debian_on_a_host_without_enough_memory() -> None:
    with pytest.raises(ConfigError, match="too small; give at least 96M"):
        linux_memory(None, 100 << 20, least=DEBIAN_LEAST)


def test_messages_name_what_the_user_gave() -> None:
    with pytest.raises(ConfigError, match=r"^memory 'lots': not a size"):
        linux_memory("lots", 8 * GIB, name="memory")
    with pytest.raises(ConfigError, match=r"^direct often: give auto"):
        parse_direct("often", "direct")


@pytest.mark.parametrize(
    ("given", "seconds"), [("30s", 30), ("2m", 120), ("1.5h", 5400), ("7", 7), (0.5, 0.5)]
)
def test_times(given: str | float, seconds: float) -> None:
    assert parse_seconds(given) == seconds


@pytest.mark.parametrize("given", ["", "0", "-1", "soon", "1d", "1e3", "s", "1" * 13, float("inf")])
def test_times_that_are_refused_in_a_line(given: str | float) -> None:
    with pytest.raises(ConfigError, match=r"^--timeout .*: not a time; give seconds"):
        parse_seconds(given)
