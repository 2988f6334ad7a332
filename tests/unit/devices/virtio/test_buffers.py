"""Bytes that are scattered over buffers, compared with the same bytes in one piece."""

from __future__ import annotations

import random

import pytest

from ringlet.devices.virtio.buffers import first, gather, scatter, skip, split_tail


def pieces(rng: random.Random) -> list[memoryview]:
    return [memoryview(bytearray(rng.randbytes(rng.randrange(6)))) for _ in range(rng.randrange(6))]


def whole(views: list[memoryview]) -> bytes:
    return b"".join(views)


@pytest.mark.parametrize("seed", range(200))
def test_cuts_are_those_of_the_bytes_in_one_piece(seed: int) -> None:
    rng = random.Random(seed)
    views = pieces(rng)
    data = whole(views)
    size = rng.randrange(len(data) + 3)
    head, rest = gather(views, size)
    assert head == data[:size]
    assert whole(rest) == data[size:]
    assert whole(skip(views, size)) == data[size:]
    assert whole(first(views, size)) == data[:size]
    body, tail = split_tail(views, min(size, len(data)))
    assert whole(body) == data[: len(data) - min(size, len(data))]
    assert whole(body) + whole(tail) == data


@pytest.mark.parametrize("seed", range(50))
def test_scatter_fills_from_the_beginning(seed: int) -> None:
    rng = random.Random(seed)
    views = pieces(rng)
    before = whole(views)
    data = rng.randbytes(rng.randrange(30))
    done = scatter(data, views)
    assert done == min(len(data), len(before))
    assert whole(views) == data[:done] + before[done:]
