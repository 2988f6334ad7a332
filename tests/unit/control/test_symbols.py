"""Symbols of a kernel's memory, of tables made as scripts/kallsyms.c makes them."""

import random
import struct
import time

import pytest

from ringlet.control import symbols
from ringlet.control.symbols import IMAGE_FROM, KernelImage, kernel_image, symbols_of
from ringlet.errors import ConfigError

BASE = IMAGE_FROM + (5 << 21)
TEXT = BASE + 0x1000
NAMES = [f"Tfunction_{i}" for i in range(700)] + ["Dlinux_banner", "Across_percpu", "t" + "x" * 200]


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 8)


def tables(
    *, old: bool = False, filler: bytes = b"", word: bytes = b"linux_"
) -> bytes:
    """Return the tables of NAMES, at every 16 bytes from TEXT on, with tokens for `function_`."""
    tokens = [bytes([i]) if 32 < i < 127 else b"" for i in range(256)]
    tokens[0], tokens[200] = b"function_", word
    names, markers = b"", []
    for i, name in enumerate(NAMES):
        if i % 256 == 0:
            markers.append(len(names))
        code = name.encode().replace(b"linux_", b"\xc8").replace(b"function_", b"\0")
        size = len(code)
        names += bytes([size] if size < 128 else [size & 0x7F | 0x80, size >> 7]) + code
    places, at = [], 0
    for token in tokens:
        places.append(at)
        at += len(token) + 1
    table = padded(b"".join(token + b"\0" for token in tokens))
    index = struct.pack("<256H", *places)
    values = [-1 - (16 * i) for i in range(len(NAMES))]
    values[NAMES.index("Across_percpu")] = 0x1234
    offsets = padded(struct.pack(f"<{len(values)}i", *values))
    relative = struct.pack("<Q", TEXT)
    head = struct.pack("<Q", len(NAMES)) + padded(names)
    head += padded(struct.pack(f"<{len(markers)}I", *markers)) + filler + table + index
    return offsets + relative + head if old else head + offsets + relative


def image(body: bytes) -> bytes:
    noise = random.Random(1).randbytes(8 * 300)
    # Digits that begin no token table come first.
    return b"0\x001\x002\x003\x004\x005\x006\x007\x008\x009\x00".ljust(64) + noise + body + noise


@pytest.mark.parametrize("old", [False, True], ids=["6.12", "6.1"])
def test_symbols(old: bool) -> None:
    found = symbols_of(image(tables(old=old)), BASE)

    assert len(found) == len(NAMES)
    assert found["function_0"] == TEXT
    assert found["function_699"] == TEXT + 16 * 699
    assert found["linux_banner"] == TEXT + 16 * 700
    assert found["cross_percpu"] == 0x1234
    assert found["x" * 200] == TEXT + 16 * 702


@pytest.mark.parametrize("data", [b"", bytes(10_000), image(b"")])
def test_memory_without_symbols(data: bytes) -> None:
    with pytest.raises(ConfigError, match="no table of symbols"):
        symbols_of(data, BASE)


def test_names_that_would_fill_the_hosts_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="names that are too long"):
        symbols_of(image(tables(word=b"f" * 600)), BASE)

    monkeypatch.setattr(symbols, "_ALL_NAMES", 5000)
    with pytest.raises(ConfigError, match="names that are too long"):
        symbols_of(image(tables()), BASE)


def test_tables_that_are_damaged_anywhere_are_refused_or_read() -> None:
    """A guest may have anything there: no other exception, and no endless loop."""
    whole = image(tables())
    chance = random.Random(2)
    for _ in range(60):
        damaged = bytearray(whole)
        for _ in range(chance.choice([1, 8, 200])):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        cut = chance.choice([len(damaged), chance.randrange(len(damaged))])
        try:
            symbols_of(bytes(damaged[:cut]), BASE)
        except ConfigError:
            continue


def test_image_begins_where_something_is_mapped_and_has_zeros_in_its_holes() -> None:
    memory = {BASE + page * 4096: bytes([page % 255 + 1]) * 4096 for page in range(1024)}
    del memory[BASE + 5 * 4096]

    def read(address: int, size: int) -> bytes:
        pages = range(address & ~4095, address + size, 4096)
        if any(page not in memory for page in pages):
            raise ValueError("not mapped")
        return b"".join(memory[page] for page in pages)[address & 4095 :][:size]

    found = kernel_image(read)

    assert isinstance(found, KernelImage)
    assert (found.base, len(found.data)) == (BASE, 4 << 20)
    assert found.data[5 * 4096 : 6 * 4096] == bytes(4096)
    assert found.data[4096] == 2


def test_no_image_before_the_kernel_runs() -> None:
    def read(address: int, size: int) -> bytes:
        raise ValueError("not mapped")

    assert kernel_image(read) is None


def test_memory_full_of_digits_is_given_up() -> None:
    digits = b"".join(b"%d\0" % digit for digit in range(10))
    data = (bytes(8) + digits * 100).ljust(2048, b"\0") * 2048

    began = time.process_time()
    with pytest.raises(ConfigError, match="no table of symbols"):
        symbols_of(data, BASE)
    assert time.process_time() - began < 10
