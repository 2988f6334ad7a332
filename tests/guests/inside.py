"""Measures what looking inside a guest takes: `python -m tests.guests.inside`."""

import time
from collections.abc import Callable
from typing import TypeVar

import ringlet
from ringlet.control.board import Board
from ringlet.control.inside import inside
from ringlet.control.plan import plan
from ringlet.control.setup import setup_runner
from ringlet.control.symbols import kernel_image, symbols_of
from ringlet.images.initramfs import Shell
from ringlet.machine.pc import Wire
from ringlet.machine.wired import Wired

T = TypeVar("T")


def timed(what: str, action: Callable[[], T]) -> T:
    """Return what `action` returns, and print the time that it takes."""
    began = time.perf_counter()
    result = action()
    print(f"{what}: {(time.perf_counter() - began) * 1e3:.1f} ms")
    return result


class Nowhere:
    """The lines of a machine that prints to nobody."""

    def wires(self) -> list[Wire]:
        """Return a connection of COM1 that drops everything."""
        return [Wire(lambda data: None)]

    def attach(self, pc: Wired) -> None:
        """Do nothing."""


def main() -> None:
    """Read a kernel's symbols, and take machines apart."""
    with ringlet.Machine("busybox", memory="256M") as machine:
        machine.start().ready()
        read = timed(
            "read the kernel's memory",
            lambda: machine.thread.call(lambda: kernel_image(inside(machine.vm()).read_linear)),
        )
        assert read is not None
        found = timed("decode its symbols", lambda: symbols_of(*read))
        print(f"{len(found)} symbols in {len(read.data) >> 20} MiB")
        timed("one call into the guest's thread", lambda: machine.cpu["rip"])
        timed("close", machine.close)
    spec = ringlet.Machine("busybox", memory="256M").spec
    board = Board(spec, plan(spec, Shell(), run_setup=setup_runner()), Nowhere())
    built = board.build()
    timed("take a processor out of its machine", built.free)


if __name__ == "__main__":
    main()
