"""A hostile driver against virtio devices: `python -m tests.fuzz.virtio --minutes 20`.

Each sample is a device with real rings, a random walk over its registers, rings, messages, resets
and state, and its host's streams.  The device must not fail, hang, spin or leave anything open.
Exit status 1 if one does.
"""
from __future__ import annotations

import argparse
import gc
import random
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field

from ringlet.devices.virtio import common
from ringlet.devices.virtio.balloon import Balloon
from ringlet.devices.virtio.pci import COMMON, DEVICE, ISR, NOTIFY, VirtioPci
from tests.differential.isolate import Death, Progress, isolated
from tests.fuzz.virtio_devices import KINDS, SMALL, Host, make, message, open_files
from tests.unit.devices.virtio.driver import INDIRECT, NEXT, WRITE, Rig
from tests.unit.vcpu.board import CODE, RAM, Board

_STEPS = 120
_HANG = 20.0
_CHUNK = 100
_REST = 0.05
_PAGES = (COMMON, ISR, DEVICE, NOTIFY)
_FREE = 0x200000
"""Memory from here to RAM's end is for buffers; the board's own is below 100000h."""


@dataclass(frozen=True, slots=True)
class Task:
    """Samples that one process runs, for devices of a kind or of all."""

    seed: int
    count: int
    kind: str = ""


@dataclass(slots=True)
class Findings:
    """How many samples were run, what they reached, and what they broke."""

    count: int = 0
    reached: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)


class Walk:
    """One sample."""

    def __init__(self, seed: int, kind: str = "") -> None:
        self.rng = random.Random(seed)
        self.kind = self.rng.choice(KINDS)
        self.kind = kind or self.kind
        self.failures: list[Exception] = []
        self.host: Host = make(self.rng, self.failures.append, self.kind)
        self.rig = Rig(self.host.device)
        self.codes = 0

    def run(self) -> Counter[str]:
        """Take all steps; what the device counted."""
        rng = self.rng
        self._start()
        steps = (
            (self._chain, 30), (self._ring, 20), (self._host_acts, 20), (self._posted, 10),
            (self._register, 3), (self._scribble, 4), (self._config_space, 1), (self._msix, 3),
            (self._start, 2), (self._code, 2), (self._save, 1), (self._settle, 3),
            (self._scribble_rings, 1),
        )
        calls = rng.choices([s for s, _ in steps], [w for _, w in steps], k=_STEPS)
        for call in calls:
            call()
        return Counter(self.rig.device.counters.values)

    def close(self) -> None:
        self.rig.pci.close()
        self.host.close()

    # --- steps

    def _start(self) -> None:
        rng = self.rng
        self.rig._next_ring = 0x100000
        everything = self.rig.offered()
        features = everything & (rng.getrandbits(64) | 1 << 32) if rng.random() < 0.5 else None
        self.rig.start(features, size=rng.choice((1, 2, 8, 16, 64)), messages=rng.random() < 0.8)

    def _part(self) -> tuple[int, int]:
        rng = self.rng
        if rng.random() < 0.01:
            return rng.choice(((RAM - 1, 2), (RAM, 1), (0, RAM), (_FREE, 0), (1 << 63, 8),
                               (CODE, 64), (0xFFFFFFFFFFFFFFFF, 1), (0x100000, 512)))
        size = rng.choice((1, 8, 16, 44, 45, 100, 512, 513, 4096, 5000))
        return rng.randrange(_FREE, RAM - size), size

    def _chain(self) -> None:
        rng, rig = self.rng, self.rig
        if rig.needs_reset and rng.random() < 0.5:
            self._start()
        index = rng.randrange(len(rig.device.queue_limits))
        rings = rig.rings[index]
        rings.used()
        data = message(rng, self.kind)
        at = rng.randrange(_FREE, RAM - 0x3000)
        rig.memory.view(at, len(data) or 1)[:] = data or b"\0"
        cut = rng.choice((len(data), rng.randrange(1, len(data) + 1) if data else 1))
        readable = [(at, cut)] + ([(at + cut, len(data) - cut)] if cut < len(data) else [])
        if not data or rng.random() < 0.03 or self._is_receive(index):
            readable = []
        writable = [self._part() for _ in range(rng.choice((0, 1, 1, 2, 5)))]
        if self.kind == "block" and rng.random() < 0.8:
            writable = [(_FREE + 0x1000 * rng.randrange(64), 512), (_FREE, 1)][rng.randrange(2):]
        elif self.kind == "vsock" and self._is_receive(index):
            writable = [(rng.choice((CODE, rng.randrange(_FREE, RAM - 4096))), 4096)]
        if rng.random() < 0.01:
            readable.append(self._part())
        if not readable and not writable:
            return
        if len(rings.free) < len(readable) + len(writable):
            rings.free.extend(range(rings.size))  # the driver forgets what it has lent
            if rings.size < len(readable) + len(writable):
                return
        if rng.random() < 0.3:
            rings.indirect(rng.randrange(_FREE, RAM - 0x1000), readable, writable)
        else:
            rings.chain(readable, writable)
        if rng.random() < 0.7:
            rig.ring(index)

    def _is_receive(self, index: int) -> bool:
        """Whether the device writes to this queue's buffers alone."""
        return {"console": index % 2 == 0, "vsock": index != 1, "balloon": index > 2,
                "rng": True, "block": False}[self.kind]

    def _ring(self) -> None:
        self.rig.ring(self.rng.randrange(len(self.rig.device.queue_limits) + 2))

    def _host_acts(self) -> None:
        self.host.act(self.rng)
        if self.kind == "balloon" and self.rng.random() < 0.2:
            assert isinstance(self.rig.device, Balloon)
            self.rig.device.resize(self.rng.randrange(RAM))
            self.rig.device.ask()

    def _posted(self) -> None:
        self.rig.post_all()

    def _settle(self) -> None:
        time.sleep(0.001)

    def _register(self) -> None:
        rng, rig = self.rng, self.rig
        offset = rng.choice(_PAGES) + rng.choice((rng.randrange(64), rng.randrange(0x1000)))
        size = rng.choice((1, 2, 4, 8))
        if rng.random() < 0.5:
            value = rig.pci.read(offset, size)
            assert 0 <= value < 1 << 8 * size
        else:
            value = rng.choice((rng.choice(SMALL), rng.getrandbits(64), RAM - 16, 0x100000))
            rig.pci.write(offset, size, value & (1 << 8 * size) - 1)

    def _scribble(self) -> None:
        """Change memory that buffers and indirect tables are in."""
        size = self.rng.choice((1, 16, 300))
        at = self.rng.randrange(_FREE, RAM - size)
        self.rig.memory.view(at, size)[:] = self.rng.randbytes(size)

    def _scribble_rings(self) -> None:
        """Change rings: random bytes, or descriptors that lead somewhere."""
        rng = self.rng
        rings = self.rig.rings[rng.randrange(len(self.rig.rings))]
        if rng.random() < 0.5:
            size = rng.choice((1, 2, 16))
            at = rng.randrange(rings.table, rings.end - size)
            rings.view(at, size)[:] = rng.randbytes(size)
            return
        address, size = self._part()
        flags = rng.choice((0, NEXT, WRITE, WRITE | NEXT, INDIRECT, INDIRECT | NEXT, 0xFFFF))
        rings.describe(rng.randrange(rings.size), address, size, flags,
                       rng.choice((rng.randrange(rings.size), rng.randrange(65536))))

    def _config_space(self) -> None:
        rng, function = self.rng, self.rig.pci.function
        size = rng.choice((1, 2, 4))
        offset = rng.randrange(0, 256, size)
        function.write_config(offset, size, rng.getrandbits(8 * size))
        assert 0 <= function.read_config(offset, size) < 1 << 8 * size

    def _msix(self) -> None:
        rng, msix = self.rng, self.rig.pci.msix
        size = rng.choice((1, 2, 4, 8))
        offset = rng.choice((rng.randrange(64), rng.randrange(0x1000)))
        msix.write(offset, size, rng.choice((rng.getrandbits(8 * size), 0)))
        assert 0 <= msix.read(offset, size) < 1 << 8 * size

    def _code(self) -> None:
        """Let the guest run code where buffers may be."""
        board: Board = self.rig.board
        at = self.rng.choice((CODE, CODE + 0x800))
        self.rig.memory.view(at, 6)[:] = bytes.fromhex("b801000000f4")
        board.p.drop_code(at, 6)
        board.set(rip=at)
        board.go()
        self.codes += 1

    def _save(self) -> None:
        """Save the state, and let another device go on with it for a moment."""
        device, pci = self.rig.device, self.rig.pci
        device.pause()
        state = pci.save()
        device.resume()
        other = make(random.Random(1), self.failures.append, self.kind)
        other.device.features = device.features
        fresh = VirtioPci(other.device, pci._around)
        before = self.rig.memory.read(0x100000, 0x80000)
        try:
            fresh.restore(state)
            fresh.write(common.STATUS, 1, 0)
        finally:
            fresh.close()
            other.close()
        self.rig.memory.view(0x100000, 0x80000)[:] = before


def run_sample(seed: int, kind: str = "") -> tuple[Counter[str], list[str]]:
    """Run one sample; what it reached and what it broke."""
    broken: list[str] = []
    reached: Counter[str] = Counter()
    walk = Walk(seed, kind)
    name = walk.kind
    try:
        reached = Counter({f"{name} {k}": n for k, n in walk.run().items()})
        if seed % 8 == 0:
            time.sleep(0.01)
            before = time.process_time()
            time.sleep(_REST)
            if time.process_time() - before > _REST / 2:
                broken.append("a thread spins")
    except Exception as error:  # noqa: BLE001 - it is a finding
        broken.append(f"{type(error).__name__}: {error}")
    finally:
        walk.close()
    broken += [f"its thread: {type(error).__name__}: {error}" for error in walk.failures]
    return reached, broken


def run_task(task: Task, progress: Progress) -> Findings:
    """Run a task's samples in this process, which ends if one of them hangs."""
    import faulthandler
    findings = Findings()
    run_sample(task.seed, task.kind)
    files, threads = open_files(), threading.active_count()
    for seed in range(task.seed, task.seed + task.count):
        progress(seed - task.seed)
        faulthandler.dump_traceback_later(_HANG, exit=True)
        reached, broken = run_sample(seed, task.kind)
        findings.count += 1
        findings.reached += reached
        findings.broken += [f"seed {seed}: {line}" for line in broken]
    faulthandler.cancel_dump_traceback_later()
    gc.collect()
    time.sleep(0.1)
    if open_files() > files + 8 or threading.active_count() > threads + 4:
        findings.broken.append(f"seeds {task.seed} to {task.seed + task.count - 1}: "
                               f"{open_files() - files} files and "
                               f"{threading.active_count() - threads} threads are left")
    return findings


def run_isolated(task: Task) -> Findings:
    """Run a task in a process of its own; its death is a finding and the rest is still run."""
    total = Findings()
    while task.count > 0:
        result = isolated(run_task, task)
        if not isinstance(result, Death):
            total.count += result.count
            total.reached += result.reached
            total.broken += result.broken
            break
        seed = task.seed + result.index
        total.count += result.index + 1
        total.broken.append(f"seed {seed}: the process died or hung, exit code {result.exit_code}")
        task = Task(seed + 1, task.count - result.index - 1, task.kind)
    return total


def main(arguments: list[str] | None = None) -> int:
    """Run samples for a time; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.virtio",
                                     description="Let a hostile driver use virtio devices.")
    parser.add_argument("--minutes", type=float, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", choices=KINDS, default="")
    options = parser.parse_args(arguments)
    end = time.monotonic() + 60 * options.minutes
    total = Findings()
    seed = options.seed
    while time.monotonic() < end:
        findings = run_isolated(Task(seed, _CHUNK, options.device))
        seed += _CHUNK
        total.count += findings.count
        total.reached += findings.reached
        total.broken += findings.broken
        for line in findings.broken:
            print(line, flush=True)
        print(f"\r{total.count} samples, {len(total.broken)} broken", end="", file=sys.stderr)
    print(file=sys.stderr)
    print(f"{total.count} samples from seed {options.seed}")
    print("reached: " + ", ".join(f"{name}: {n}" for name, n in sorted(total.reached.items())))
    print(f"broken: {len(total.broken)}")
    return 1 if total.broken else 0


if __name__ == "__main__":
    sys.exit(main())
