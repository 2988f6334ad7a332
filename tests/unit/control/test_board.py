"""The builder of machines, over a fake processor."""

import gc
import sys
import types
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from ringlet.control.board import Board
from ringlet.control.plan import Plan
from ringlet.control.spec import MachineSpec
from ringlet.core.state import Exit
from ringlet.errors import ConfigError
from ringlet.machine import outcome
from ringlet.machine.causes import Source
from ringlet.machine.outcome import End, EndKind
from ringlet.machine.pc import Wire
from ringlet.machine.vm import Vm
from ringlet.machine.wired import Wired
from tests.unit.machine.fake_cpu import FakeCpu, FakeExit, out
from tests.unit.machine.kernel_maker import BzImage

RESET = [out(0xCF9, 2), out(0xCF9, 6)]
PANIC = b"Kernel panic - not syncing: sysrq triggered crash\r\n"


def prints(text: bytes) -> list[FakeExit]:
    return [out(0x3F8, byte) for byte in text]


class Lines:
    """A console that keeps what is printed, and the machines that it was attached to."""

    def __init__(self) -> None:
        self.seen = b""
        self.pcs = 0

    def wires(self) -> Sequence[Wire]:
        return [Wire(self._take)]

    def attach(self, pc: Wired) -> None:
        self.pcs += 1

    def _take(self, data: bytes) -> None:
        self.seen += data


class Bench:
    """Makes boards whose machines play scripts, one after the other."""

    def __init__(self, kernel: Path) -> None:
        self.lines = Lines()
        self.scripts: list[list[FakeExit]] = []
        self.made: list[weakref.ref[FakeCpu]] = []
        self.registers: dict[str, int] = {}
        self._plan = Plan(kernel, 64 << 20, "", "kernel", lambda address: None)

    def processor(self, ram_size: int, **options: object) -> FakeCpu:
        cpu = FakeCpu(list(self.scripts.pop(0)))
        cpu.registers |= self.registers
        self.made.append(weakref.ref(cpu))
        return cpu

    def board(self, spec: MachineSpec, *scripts: list[FakeExit]) -> Board:
        self.scripts += scripts
        return Board(spec, self._plan, self.lines)

    def run(self, spec: MachineSpec, *scripts: list[FakeExit]) -> End:
        return self.board(spec, *scripts).run(lambda machine: machine.run())


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    bench = Bench(BzImage().write(tmp_path / "kernel"))
    module = types.ModuleType("ringlet.vcpu.processor")
    vars(module)["Processor"] = bench.processor
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return bench


def spec(**options: object) -> MachineSpec:
    return MachineSpec(cold=True, direct="never", **options)  # type: ignore[arg-type]  # a test's


def test_reset_ends_the_run(bench: Bench) -> None:
    assert bench.run(spec(), prints(b"a") + RESET).kind is EndKind.RESET
    assert bench.lines.seen == b"a"


def test_reset_starts_the_next_machine_if_wanted(bench: Bench) -> None:
    board = bench.board(
        spec(reboot=True), prints(b"a") + RESET, prints(b"b") + RESET,
        [FakeExit(Exit.EXIT_HLT)],
    )  # fmt: skip
    end = board.run(lambda machine: machine.run())

    assert end.kind is EndKind.HALTED
    assert (bench.lines.seen, bench.lines.pcs, board.resets) == (b"ab", 3, 2)


def test_machine_of_before_the_reset_is_freed_at_once(bench: Bench) -> None:
    gc.disable()
    try:
        bench.run(spec(reboot=True), RESET, [FakeExit(Exit.EXIT_HLT)])
        first, _ = bench.made
        assert first() is None
    finally:
        gc.enable()


def test_reset_after_a_panic_is_one(bench: Bench) -> None:
    end = bench.run(spec(reboot=True), prints(PANIC) + RESET, prints(b"again") + RESET, [])

    assert (end.kind, end.status) == (EndKind.PANIC, 3)
    assert end == outcome.panicked("sysrq triggered crash")
    assert bench.lines.seen == PANIC


def test_panic_of_the_machine_before_does_not_count(bench: Bench) -> None:
    board = bench.board(spec(), [], RESET)
    board.build()
    board.tail.take(PANIC)
    board.let_go()

    assert board.run(lambda machine: machine.run()).kind is EndKind.RESET


def test_halt_by_a_command_is_told_from_another(bench: Bench) -> None:
    halted = [*prints(b"reboot: System halted\r\n"), FakeExit(Exit.EXIT_HLT)]

    assert bench.run(spec(), halted) == outcome.halted_by_command()
    assert "nothing can wake it" in bench.run(spec(), [FakeExit(Exit.EXIT_HLT)]).message


def test_time_that_is_over(bench: Bench) -> None:
    end = bench.run(spec(timeout=0.05), [])

    assert (end.kind, end.status) == (EndKind.TIMEOUT, 124)
    assert end.message == "the guest was still running after 0.05 s"


def test_time_is_that_of_all_machines_together(bench: Bench) -> None:
    end = bench.run(spec(timeout=0.1, reboot=True), RESET, RESET, [])

    assert end.kind is EndKind.TIMEOUT
    assert end.message.endswith("after 0.1 s, in which it reset the machine 2 times")


def test_what_led_to_a_reset_is_told(bench: Bench) -> None:
    bench.registers = {
        "no_handlers": 1, "no_handler.vector": 0x15, "no_handler.source": Source.FROM_SOFTWARE,
    }  # fmt: skip
    why = "; before, INT 15h had no handler: its vector is 0000:0000, and there is no BIOS"

    assert bench.run(spec(), RESET).message == f"the guest reset its machine{why}"
    end = bench.run(spec(timeout=0.1, reboot=True), RESET, [])
    assert end.message.endswith(f"after 0.1 s, in which it reset the machine once{why}")


def test_run_that_was_stopped_before_it_began(bench: Bench) -> None:
    board = bench.board(spec(), [])
    board.stop(outcome.quit_by_user())

    assert board.run(lambda machine: machine.run()).kind is EndKind.STOPPED


def test_log_has_what_the_console_has(bench: Bench, tmp_path: Path) -> None:
    bench.run(spec(log=tmp_path / "log"), prints(b"hello") + RESET)

    assert (tmp_path / "log").read_bytes() == bench.lines.seen == b"hello"


def test_log_that_cannot_be_written(bench: Bench, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot write the log: Is a directory; give another"):
        bench.board(spec(log=tmp_path))


@pytest.fixture
def descriptors() -> Callable[[], int]:
    return lambda: len(list(Path("/proc/self/fd").iterdir()))


def test_log_is_closed(bench: Bench, tmp_path: Path, descriptors: Callable[[], int]) -> None:
    before = descriptors()
    bench.run(spec(log=tmp_path / "log"), RESET)

    assert descriptors() == before


def test_processor_that_was_let_go_is_freed_and_the_machine_harmless(bench: Bench) -> None:
    board = bench.board(spec(), [FakeExit(Exit.EXIT_HLT)])
    machine: Vm = board.build()
    machine.run()
    gc.disable()
    try:
        board.let_go()
        (cpu,) = bench.made
        assert cpu() is None
        machine.post(lambda: None)
        machine.stop(outcome.quit_by_user())
    finally:
        gc.enable()


def test_translations_that_cannot_be_kept_are_told(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = bench.board(spec(), RESET)

    def fail(self: object) -> None:
        raise OSError(28, "No space left on device", "/cache/file")

    monkeypatch.setattr("ringlet.machine.engine.Engine.keep", fail)
    board.run(lambda machine: machine.run())

    assert board.trouble == (
        "/cache/file: cannot keep translations: No space left on device; --cold runs without them"
    )
