"""Submits requests to a disk as a block device does, and waits for their ends."""

import threading
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from ringlet.devices.backends.disks import Disk, Operation, Request, open_disk
from ringlet.disk_spec import DiskSpec

PATIENCE = 30.0


@dataclass
class Ended:
    """The errnos that one request was answered with: exactly one, if the disk is right."""

    codes: list[int] = field(default_factory=list)
    event: threading.Event = field(default_factory=threading.Event)

    def __call__(self, code: int) -> None:
        self.codes.append(code)
        self.event.set()

    def wait(self) -> int:
        assert self.event.wait(PATIENCE), "the disk did not answer"
        (code,) = self.codes
        return code


def split(data: bytearray, parts: int) -> list[memoryview]:
    step = -(-len(data) // parts) or 1
    return [memoryview(data)[start : start + step] for start in range(0, len(data), step)]


class Driver:
    """A disk with a blocking call for each operation; `lines` are what the user was told."""

    def __init__(self, disk: Disk | DiskSpec) -> None:
        self.lines: list[str] = []
        self.disk = open_disk(disk, self.lines.append) if isinstance(disk, DiskSpec) else disk

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self.disk.close()

    def begin(
        self, operation: Operation, offset: int = 0, length: int = 0,
        buffers: list[memoryview] | None = None, *, unmap: bool = False, fua: bool = False,
        alone: bool = False,
    ) -> Ended:  # fmt: skip
        ended = Ended()
        self.disk.submit(
            Request(operation, offset, length, buffers or [], ended, unmap, fua, alone)
        )
        return ended

    def read(self, offset: int, length: int, parts: int = 1) -> bytes:
        data = bytearray(b"\xa5" * length)
        code = self.begin(Operation.READ, offset, length, split(data, parts)).wait()
        if code:
            raise OSError(code, "read")
        return bytes(data)

    def write(self, offset: int, data: bytes, parts: int = 1, *, fua: bool = False) -> int:
        buffers = split(bytearray(data), parts)
        return self.begin(Operation.WRITE, offset, len(data), buffers, fua=fua).wait()

    def flush(self) -> int:
        return self.begin(Operation.FLUSH).wait()

    def discard(self, offset: int, length: int) -> int:
        return self.begin(Operation.DISCARD, offset, length).wait()

    def write_zeros(self, offset: int, length: int, *, unmap: bool = False) -> int:
        return self.begin(Operation.WRITE_ZEROES, offset, length, unmap=unmap).wait()
