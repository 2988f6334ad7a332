"""Bytes that are scattered over the buffers of a chain."""

from collections.abc import Iterable


def gather(buffers: Iterable[memoryview], size: int) -> tuple[bytes, list[memoryview]]:
    """Return a copy of the first `size` bytes, fewer if there are fewer, and the buffers' rest."""
    head = bytearray()
    rest: list[memoryview] = []
    for view in buffers:
        wanted = size - len(head)
        if wanted <= 0:
            rest.append(view)
        elif len(view) <= wanted:
            head += view
        else:
            head += view[:wanted]
            rest.append(view[wanted:])
    return bytes(head), rest


def skip(buffers: Iterable[memoryview], size: int) -> list[memoryview]:
    """Return the buffers without their first `size` bytes."""
    rest: list[memoryview] = []
    for view in buffers:
        if size < len(view):
            rest.append(view[size:] if size else view)
        size = max(size - len(view), 0)
    return rest


def first(buffers: Iterable[memoryview], size: int) -> list[memoryview]:
    """Return the first `size` bytes of the buffers, fewer if there are fewer."""
    head: list[memoryview] = []
    for view in buffers:
        if size <= 0:
            break
        head.append(view[:size] if size < len(view) else view)
        size -= len(view)
    return head


def split_tail(buffers: list[memoryview], size: int) -> tuple[list[memoryview], list[memoryview]]:
    """Return the buffers without their last `size` bytes, and those bytes."""
    left = sum(map(len, buffers)) - size
    body: list[memoryview] = []
    tail: list[memoryview] = []
    for view in buffers:
        part = min(len(view), max(left, 0))
        if part:
            body.append(view[:part])
        if part < len(view):
            tail.append(view[part:])
        left -= part
    return body, tail


def scatter(data: bytes | memoryview, buffers: Iterable[memoryview]) -> int:
    """Copy `data` to the buffers; return how many bytes had room."""
    done = 0
    for view in buffers:
        if done == len(data):
            break
        part = min(len(view), len(data) - done)
        view[:part] = data[done : done + part]
        done += part
    return done
