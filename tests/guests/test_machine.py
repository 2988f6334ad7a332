"""`ringlet.Machine` with Debian's kernel: what docs/python.md says."""

from __future__ import annotations

import asyncio
import gc
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import ringlet
from ringlet.control.inside import REGISTERS
from ringlet.images.debian import CachedKernel
from ringlet.machine.outcome import EndKind
from tests.guests.debian import started_debian

PATIENCE = 90
# The first test fetches the kernel, where there is none.
pytestmark = [pytest.mark.timeout(300), pytest.mark.usefixtures("kernel")]


def said(machine: ringlet.Machine, command: str) -> str:
    """Return what a command of the guest's shell prints."""
    machine.console.send(f"{command}\n")
    machine.console.expect("\r\n")  # the line as it was typed
    return machine.console.expect("# ", PATIENCE).rpartition("\r\n")[0].replace("\r\n", "\n")


@pytest.fixture(scope="module")
def running() -> Iterator[ringlet.Machine]:
    with ringlet.Machine("busybox", memory="256M") as machine:
        yield machine.start().ready(PATIENCE)


def test_shell_takes_long_lines_and_draws_nothing(running: ringlet.Machine) -> None:
    word = "x" * 300

    assert said(running, f"echo {word}") == word
    assert said(running, "echo $TERM") == "dumb"


def test_what_is_typed_before_the_kernel_opens_its_console_is_not_lost() -> None:
    with ringlet.Machine("busybox", memory="256M") as machine:
        machine.start()
        machine.console.send(f"echo $((40 + 2)){'y' * 100}\n")

        assert machine.console.expect(f"42{'y' * 100}", PATIENCE)


def test_symbols_are_where_the_guest_has_them(running: ringlet.Machine) -> None:
    lines = said(running, "grep -E ' (_stext|init_task|linux_banner|vfs_read)$' /proc/kallsyms")
    there = {line.split()[2]: int(line.split()[0], 16) for line in lines.splitlines()}

    assert len(there) == 4
    assert {name: running.memory.symbol(name) for name in there} == there
    assert len(running.memory.symbols()) > 50_000
    with pytest.raises(ringlet.ConfigError, match="nope: the guest's kernel has no symbol"):
        running.memory.symbol("nope")


def test_memory_by_linear_and_physical_address(running: ringlet.Machine) -> None:
    banner = running.memory.symbol("linux_banner")
    physical = running.memory.translate(banner)
    assert physical is not None

    assert running.memory.read_linear(banner, 14) == b"Linux version "
    assert running.memory.read(physical, 14) == b"Linux version "
    assert running.memory.translate(1 << 47) is None
    assert running.memory.translate(0xFFFF_8000_0000_0000 - 1) is None


def test_memory_that_is_written_is_the_guests(running: ringlet.Machine) -> None:
    version = said(running, "uname -v")
    start = running.memory.symbol("init_uts_ns")
    at = start + running.memory.read_linear(start, 1024).index(version.encode())
    running.memory.write_linear(at, b"#7")

    assert said(running, "uname -v").startswith("#7")
    running.memory.write_linear(at, version.encode()[:2])


@pytest.mark.parametrize(("address", "size"), [(1 << 50, 4), (-1, 4), (0, -1), (0, 1 << 40)])
def test_memory_that_is_not_there(running: ringlet.Machine, address: int, size: int) -> None:
    with pytest.raises(ringlet.ConfigError, match=r"^(address|size) "):
        running.memory.read(address, size)


def test_registers(running: ringlet.Machine) -> None:
    registers = running.cpu.registers()

    assert set(registers) == set(REGISTERS) == set(running.cpu)
    assert registers["cr0"] & 1
    assert running.cpu["efer"] & 1 << 10
    with pytest.raises(ringlet.ConfigError, match="'ax': no register"):
        running.cpu["ax"]


def test_paused_guest_stands_still(running: ringlet.Machine) -> None:
    running.pause()
    state = running.state
    before = running.cpu.registers(), running.counters()["exits"]
    threading.Event().wait(0.3)
    after = running.cpu.registers(), running.counters()["exits"]
    running.resume()

    assert state == "paused"
    assert before == after
    assert said(running, "echo on") == "on"


def test_breakpoint_calls_a_function_while_the_guest_stands_still(
    running: ringlet.Machine,
) -> None:
    places: list[int] = []
    running.on("break:__x64_sys_sethostname", lambda: places.append(running.cpu["rip"]))
    said(running, "hostname debian; hostname debian")

    assert places == [running.memory.symbol("__x64_sys_sethostname")] * 2
    with pytest.raises(ringlet.ConfigError, match="no symbol of this name"):
        running.on("break:nope", print)


# --- ends


def test_breakpoint_from_before_the_start() -> None:
    hit = threading.Event()
    with ringlet.Machine("busybox", memory="128M") as machine:
        machine.on("break:__x64_sys_execve", hit.set)
        machine.start().ready(PATIENCE)
        said(machine, "sh -c true")

        assert hit.wait(PATIENCE)


def test_breakpoint_at_a_symbol_that_the_kernel_lacks_ends_the_run() -> None:
    with ringlet.Machine("busybox", memory="128M") as machine:
        machine.on("break:nope", print)
        machine.start()

        with pytest.raises(ringlet.ConfigError, match="nope: the guest's kernel has no symbol"):
            machine.wait(PATIENCE)


def test_panic_is_an_error_with_the_last_lines() -> None:
    seen: list[object] = []
    ended = threading.Event()
    with ringlet.Machine("busybox", memory="128M") as machine:
        machine.on("panic", seen.append)
        machine.on("exit", lambda end: seen.append(end.kind))
        machine.on("exit", lambda end: ended.set())
        machine.start().ready(PATIENCE)
        machine.console.send("echo c >/proc/sysrq-trigger\n")
        with pytest.raises(ringlet.GuestPanic, match="panicked: sysrq triggered crash") as caught:
            machine.console.expect("never", PATIENCE)
        with pytest.raises(ringlet.GuestPanic):
            machine.wait(PATIENCE)
        ended.wait(PATIENCE)

    assert "RIP: 00" in caught.value.console
    assert isinstance(seen[0], ringlet.GuestPanic)
    assert seen[1:] == [EndKind.PANIC]


def test_error_of_a_programs_function_ends_the_run() -> None:
    def wrong() -> None:
        raise KeyError("mine")

    with ringlet.Machine("busybox", memory="128M") as machine:
        machine.on("break:__x64_sys_execve", wrong)
        machine.start().ready(PATIENCE)
        machine.console.send("sh -c true\n")

        with pytest.raises(KeyError, match="mine"):
            machine.wait(PATIENCE)


def test_functions_of_the_end_come_before_it() -> None:
    order: list[str] = []
    with ringlet.Machine("busybox", memory="128M") as machine:
        machine.on("exit", lambda end: order.append("function"))
        machine.on("exit", lambda end: machine.kill())
        machine.start()
        machine.kill()
        machine.wait()
        order.append("wait")

    assert order == ["function", "wait"]


def test_reset_starts_the_guest_again_if_wanted() -> None:
    with ringlet.Machine("busybox", memory="128M", reboot=True) as machine:
        machine.start().ready(PATIENCE)
        machine.console.send("touch /mnt/here; reboot -f\n")
        machine.console.expect("Restarting system", PATIENCE)
        machine.ready(PATIENCE)

        assert said(machine, "ls /mnt") == ""
        assert machine.run("ls /mnt", timeout=PATIENCE).stdout == ""


def test_time_that_is_over() -> None:
    with ringlet.Machine("busybox", memory="128M", timeout="2s") as machine:
        machine.start()
        with pytest.raises(ringlet.GuestTimeout, match="still running after 2 s"):
            machine.wait(PATIENCE)


def test_guest_that_ends_before_it_is_ready(kernel: CachedKernel) -> None:
    with ringlet.Machine("busybox", memory="128M", append="rdinit=/bin/true") as machine:
        machine.start()
        with pytest.raises((ringlet.GuestPanic, ringlet.BootError)):
            machine.ready(PATIENCE)
    with ringlet.Machine(kernel.vmlinuz, memory="128M") as machine:
        machine.start()
        with pytest.raises(ringlet.ConfigError, match="does not say when it is ready"):
            machine.ready()


def test_paused_guest_can_be_stopped() -> None:
    with ringlet.Machine("busybox", memory="128M") as machine:
        machine.start()
        machine.pause()
        machine.stop()

        assert machine.wait().kind is EndKind.STOPPED
        assert machine.state == "ended"
        with pytest.raises(ringlet.GuestEnded):
            machine.pause()


def memory_of_this_process() -> int:
    status = Path("/proc/self/status").read_text()
    return sum(int(n) for n in re.findall(r"^RssShmem:\s*(\d+)", status, re.MULTILINE)) << 10


def resident() -> int:
    """Return the memory of this process, of all kinds."""
    status = Path("/proc/self/status").read_text()
    return sum(int(n) for n in re.findall(r"^VmRSS:\s*(\d+)", status, re.MULTILINE)) << 10


def test_memory_is_free_when_a_machine_is_closed() -> None:
    """Without a collection of cycles, and after all that could keep the processor."""
    before = memory_of_this_process()
    gc.disable()
    try:
        with ringlet.Machine("busybox", memory="128M") as machine:
            machine.on("break:__x64_sys_newuname", lambda: None)
            machine.start().ready(PATIENCE)
            with pytest.raises(ringlet.ConfigError):
                machine.memory.read(1 << 50, 4)
            said(machine, "uname -a")
            used = memory_of_this_process()
        left = memory_of_this_process()
    finally:
        gc.enable()

    assert used - before > 50 << 20
    assert left - before < 1 << 20
    assert machine.counters()["exits"] > 0


def test_memory_does_not_grow_with_machines_one_after_the_other(tmp_path: Path) -> None:
    """Each has all kinds of devices that need no network.

    Without a collection of cycles, their small objects remain, 1 to 2 MiB each; the memory of the
    guests, 60 MiB each, does not.
    """
    shared = tmp_path / "shared"
    shared.mkdir()
    disk = shared / "disk"
    disk.write_bytes(bytes(1 << 20))
    sizes = []
    gc.disable()
    try:
        for _ in range(8):
            with ringlet.Machine(
                "busybox", memory="128M", vsock=tmp_path / "s", mounts=f"{shared}:/mnt",
                disks=disk,
            ) as machine:  # fmt: skip
                assert machine.start().run("ls /mnt/disk /dev/vda").ok
            sizes.append(resident())
    finally:
        gc.enable()

    assert sizes[-1] - sizes[1] < 24 << 20, sizes


# --- commands and files, by the agent in Debian


@pytest.fixture(scope="module")
def debian() -> Iterator[ringlet.Machine]:
    with started_debian({"FROM": "machine"}) as machine:
        yield machine


def test_command_has_streams_a_status_and_surroundings(debian: ringlet.Machine) -> None:
    result = debian.run(
        'cat; pwd; echo "$FROM $TO"; echo for errors >&2; exit 7', input="given\n",
        env={"TO": "command"}, cwd="/usr", timeout=PATIENCE,
    )  # fmt: skip

    assert result.stdout == "given\n/usr\nmachine command\n"
    assert (result.stderr, result.exit_code) == ("for errors\n", 7)
    assert 0 < result.duration < PATIENCE
    assert debian.run(["printf", "<%s>", "a b", "$x"]).stdout == "<a b><$x>"


def test_command_that_fails(debian: ringlet.Machine) -> None:
    with pytest.raises(ringlet.CommandFailedError) as failed:
        debian.run("echo why >&2; exit 3", check=True)
    with pytest.raises(ringlet.CommandTimeoutError):
        debian.run("sleep 100", timeout=0.2)
    with pytest.raises(ringlet.CommandError, match="no-such-program"):
        debian.run(["no-such-program"])

    assert "why" in str(failed.value)
    assert isinstance(failed.value, ringlet.RingletError)


def test_output_comes_while_the_command_runs(debian: ringlet.Machine) -> None:
    parts: list[bytes] = []
    result = debian.run("echo one; sleep 0.3; echo two", on_stdout=parts.append)

    assert b"".join(parts) == b"one\ntwo\n"
    assert len(parts) == 2
    assert result.stdout == ""


def test_command_that_is_talked_to(debian: ringlet.Machine) -> None:
    with debian.popen(["cat"]) as process:
        assert process.stdin is not None
        process.stdin.write(b"hello\n")
        process.stdin.close()
        assert process.stdout.read() == b"hello\n"
        assert process.wait(PATIENCE) == 0


def test_files(debian: ringlet.Machine, tmp_path: Path) -> None:
    (tmp_path / "tree/inner").mkdir(parents=True)
    (tmp_path / "tree/inner/file").write_bytes(bytes(range(256)))
    debian.files.write("/srv/a", b"text")
    debian.files.copy_in(tmp_path / "tree", "/srv/tree")
    debian.run("cp -r /srv/tree /srv/copy", check=True)
    debian.files.copy_out("/srv/copy", tmp_path / "back")

    assert debian.files.read("/srv/a") == b"text"
    assert (tmp_path / "back/inner/file").read_bytes() == bytes(range(256))
    with pytest.raises(ringlet.GuestFileError, match="/srv/none: No such file"):
        debian.files.read("/srv/none")


def test_symbols_and_processes_together(debian: ringlet.Machine) -> None:
    calls: list[int] = []
    debian.on("break:__x64_sys_sethostname", lambda: calls.append(debian.cpu["rdi"]))

    assert debian.run("hostname box; hostname").stdout == "box\n"
    assert len(calls) == 1


def test_command_learns_of_a_panic() -> None:
    with ringlet.Machine("debian", memory="512M") as machine:
        machine.start().ready(PATIENCE)

        with pytest.raises(ringlet.GuestPanic, match="sysrq triggered crash"):
            machine.run("echo c >/proc/sysrq-trigger; sleep 9")


def test_guest_is_asked_to_turn_itself_off() -> None:
    with ringlet.Machine("debian", memory="512M") as machine:
        machine.start().ready(PATIENCE)
        machine.stop(PATIENCE)

        assert machine.wait().kind is EndKind.POWER_OFF
        with pytest.raises(ringlet.GuestEnded):
            machine.run("true")


def test_commands_need_an_agent(kernel: CachedKernel) -> None:
    with ringlet.Machine(kernel.vmlinuz, memory="128M") as machine:
        machine.start()

        with pytest.raises(ringlet.ConfigError, match="has no agent that runs commands"):
            machine.run("true")


def test_coroutines_run_commands_side_by_side() -> None:
    async def one(number: int) -> str:
        async with ringlet.AsyncMachine("debian", memory="512M") as machine:
            await machine.start()
            return (await machine.run(f"echo $(({number} * 1000))")).stdout

    async def both() -> list[str]:
        return list(await asyncio.gather(one(1), one(2)))

    assert asyncio.run(both()) == ["1000\n", "2000\n"]
