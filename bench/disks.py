"""Costs of the host's side of disks: python bench/disks.py FILE... [--seconds S] [--write].

For each FILE (FILE[,snapshot][,format=...] as for --disk), size, direction and depth: throughput,
and processor time of all processes a request, on a file that fits into the page cache.  With fio
in the path, the same with psync and libaio on the first file.  --write changes the files.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import shutil
import subprocess
import threading
import time
from collections.abc import Callable

from ringlet.devices.backends.disks import Disk, Operation, Request, open_disk
from ringlet.disk_spec import parse_disk

SHAPES = (("seq", 1 << 20, (1, 8)), ("rand", 4096, (1, 8, 32)))


def spent() -> float:
    """Return the processor time of this process and of the engines it has ended."""
    total = 0.0
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        usage = resource.getrusage(who)
        total += usage.ru_utime + usage.ru_stime
    return total


class Load:
    """Keeps `depth` requests of `unit` bytes under way for `seconds`."""

    def __init__(
        self, disk: Disk, operation: Operation, unit: int, depth: int, offset: Callable[[], int]
    ) -> None:
        self._disk = disk
        self._operation = operation
        self._unit = unit
        self._offset = offset
        self._free = threading.Semaphore(depth)
        self._depth = depth
        self._buffers = [[memoryview(bytearray(unit))] for _ in range(depth)]
        self.failed = 0

    def _done(self, buffers: list[memoryview], code: int) -> None:
        self.failed += bool(code)
        self._buffers.append(buffers)
        self._free.release()

    def run(self, seconds: float) -> tuple[int, float]:
        """Return the number of requests and the seconds they took."""
        count = 0
        began = time.perf_counter()
        end = began + seconds
        while time.perf_counter() < end:
            self._free.acquire()
            buffers = self._buffers.pop()
            self._disk.submit(
                Request(
                    self._operation, self._offset(), self._unit, buffers,
                    lambda code, buffers=buffers: self._done(buffers, code),  # type: ignore[misc]
                )
            )  # fmt: skip
            count += 1
        for _ in range(self._depth):
            self._free.acquire()
        return count, time.perf_counter() - began


def offsets(kind: str, size: int, unit: int) -> Callable[[], int]:
    """Return a function that gives the offset of each request."""
    units = size // unit
    if kind == "rand":
        chosen = random.Random(1)  # noqa: S311 - no secret
        return lambda: int(chosen.random() * units) * unit
    steps = iter(range(1 << 62))
    return lambda: next(steps) % units * unit


def measure(text: str, operation: Operation, seconds: float) -> None:
    """Print a line for each size and depth."""
    for kind, unit, depths in SHAPES:
        for depth in depths:
            before = spent()
            disk = open_disk(parse_disk(text), print)
            load = Load(disk, operation, unit, depth, offsets(kind, disk.size, unit))
            count, took = load.run(seconds)
            disk.close()
            cost = (spent() - before) / count * 1e6
            print(
                f"{text:<40} {operation.value:<5} {kind:<4} {unit >> 10:>4} KiB depth {depth:>2} "
                f"{count * unit / took / 1e6:>8.0f} MB/s {count / took:>8.0f} /s {cost:>8.1f} us"
                + (f"  {load.failed} failed" if load.failed else ""),
                flush=True,
            )


def fio(path: str, operation: Operation, seconds: float) -> None:
    """Print the same lines for fio."""
    for kind, unit, depths in SHAPES:
        for depth in depths:
            for engine in ("psync",) if depth == 1 else ("psync", "libaio"):
                jobs = depth if engine == "psync" else 1
                done = subprocess.run(
                    ["fio", "--name=a", f"--filename={path}", f"--bs={unit}", "--thread",
                     f"--rw={'' if kind == 'seq' else 'rand'}{operation.value}", "--norandommap",
                     f"--ioengine={engine}", f"--numjobs={jobs}", "--time_based",
                     f"--iodepth={1 if engine == 'psync' else depth}", f"--runtime={seconds}",
                     "--group_reporting", "--output-format=json", "--invalidate=0"],
                    capture_output=True, check=True, text=True,
                )  # fmt: skip
                job = json.loads(done.stdout)["jobs"][0]
                got = job[operation.value]
                busy = (job["usr_cpu"] + job["sys_cpu"]) / 100 * job["job_runtime"] * 1e3
                print(
                    f"fio {engine:<36} {operation.value:<5} {kind:<4} {unit >> 10:>4} KiB "
                    f"depth {depth:>2} {got['bw_bytes'] / 1e6:>8.0f} MB/s {got['iops']:>8.0f} /s "
                    f"{busy / got['total_ios']:>8.1f} us",
                    flush=True,
                )


def main() -> None:
    """Measure what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("disks", nargs="+")
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    operation = Operation.WRITE if arguments.write else Operation.READ
    if shutil.which("fio") is not None:
        fio(str(parse_disk(arguments.disks[0]).path), operation, arguments.seconds)
    for text in arguments.disks:
        measure(text, operation, arguments.seconds)


if __name__ == "__main__":
    main()
