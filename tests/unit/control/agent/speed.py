"""Figures of the agent on the host itself: python -m tests.unit.control.agent.speed."""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from ringlet.control.agent import Agent
from tests.unit.control.agent.native import native_agent

SIZE = 1 << 30
PART = bytes(1 << 20)


def seconds(function: Callable[[], object], times: int = 1) -> float:
    """Return the median of the times that `function` takes."""
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        function()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def output(agent: Agent) -> None:
    process = agent.popen(["head", "-c", str(SIZE), "/dev/zero"], stdin=False)
    size = 0
    while part := process.stdout.read(1 << 20):
        size += len(part)
    assert size == SIZE
    assert process.wait() == 0


def collected(agent: Agent) -> None:
    result = agent.run(["head", "-c", str(SIZE // 8), "/dev/zero"], text=False)
    assert len(result.stdout) == SIZE // 8


def given(agent: Agent) -> None:
    with agent.popen(["tail", "-c", "1"]) as process:
        assert process.stdin is not None
        for _ in range(SIZE // len(PART)):
            process.stdin.write(PART)
        process.stdin.close()


def main() -> None:
    """Print a line for each figure."""
    with native_agent() as agent, tempfile.TemporaryDirectory() as name:
        room = Path(name)
        agent.run("true")
        print(f"run /bin/true: {seconds(lambda: agent.run(['/bin/true']), 300) * 1e3:.2f} ms")
        print(f"stat of a file: {seconds(lambda: agent.files.stat('/'), 300) * 1e3:.2f} ms")
        print(f"clock: {seconds(agent.time, 300) * 1e6:.0f} us")
        used = time.process_time()
        print(f"output, popen: {SIZE / 1e6 / seconds(lambda: output(agent)):.0f} MB/s")
        used = (time.process_time() - used) / SIZE * 1e9
        print(f"processor time of the host's side: {used:.2f} s for a GB")
        print(f"output, run: {SIZE / 8e6 / seconds(lambda: collected(agent), 3):.0f} MB/s")
        print(f"input: {SIZE / 1e6 / seconds(lambda: given(agent)):.0f} MB/s")
        (room / "tree").mkdir()
        for number in range(1000):
            (room / "tree" / str(number)).write_bytes(bytes(1000))
        copy(agent, "1,000 files", room / "tree", room / "tree in", room / "tree out")
        (room / "big").write_bytes(bytes(SIZE // 4))
        copy(agent, f"a file of {SIZE // 4e6:.0f} MB", room / "big", room / "in", room / "out")


def copy(agent: Agent, what: str, source: Path, there: Path, back: Path) -> None:
    """Print how long it takes to copy `source` in and out."""
    print(f"{what} in: {seconds(lambda: agent.files.copy_in(source, there)):.2f} s")
    print(f"{what} out: {seconds(lambda: agent.files.copy_out(source, back)):.2f} s")


if __name__ == "__main__":
    main()
