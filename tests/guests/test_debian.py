"""Debian's own, unmodified kernel: the documented behaviour of `ringlet run debian`."""

import asyncio
import hashlib
import os
import pty
import random
import re
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

import ringlet
from ringlet.errors import HostError, ImageError
from ringlet.images.busybox import find_busybox
from ringlet.images.catalog import Images
from ringlet.images.debian import CLOUD_KERNEL, CachedKernel, fetch_kernel
from ringlet.images.initramfs import Shell, make_initramfs
from ringlet.machine.host import memory_size
from ringlet.machine.outcome import EndKind
from ringlet.machine.setup_header import XLF_KERNEL_64, XLOADFLAGS
from tests.guests.counters import direct_counters
from tests.guests.unpacked import unpack

PATIENCE = 90
"""Seconds; a boot takes two on an idle machine."""

# The first test fetches the kernel, where there is none.
pytestmark = [pytest.mark.timeout(300), pytest.mark.usefixtures("kernel")]


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "ringlet", "run", *arguments]


def in_guest(script: str, stdin: bytes = b"", *options: str) -> subprocess.CompletedProcess[bytes]:
    """Run a script with the guest's shell."""
    return subprocess.run(
        command("busybox", *options, "--", "sh", "-c", script),
        input=stdin,
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )


# --- a command


def test_command_has_streams_and_a_status() -> None:
    done = in_guest("uname -sm; echo for errors >&2; exit 7")

    assert (done.returncode, done.stdout, done.stderr) == (7, b"Linux x86_64\n", b"for errors\n")


def test_input_reaches_the_command_as_it_is_and_ends() -> None:
    data = random.Random(1).randbytes(50_000)
    done = in_guest("sha256sum; cat", data)

    assert done.stdout.split()[0].decode() == hashlib.sha256(data).hexdigest()
    assert done.returncode == 0


def test_much_input_is_not_lost() -> None:
    """The input is larger than all queues, terminals and pipes on its way together."""
    data = random.Random(3).randbytes(40_000_000)
    done = in_guest("tee /tmp/all; sha256sum /tmp/all >&2", data)

    assert done.stderr.split()[0].decode() == hashlib.sha256(data).hexdigest()
    assert done.stdout == data


def test_unread_input_does_not_block_the_command() -> None:
    began = time.monotonic()
    done = in_guest("exit 3", bytes(4_000_000))

    assert done.returncode == 3
    assert time.monotonic() - began < PATIENCE / 2


def test_output_is_binary() -> None:
    data = bytes(range(256)) * 40
    assert in_guest("cat", data).stdout == data


def test_arguments_are_exact() -> None:
    words = ["a b", "", "'\"$x\\", "\n", "ü"]
    done = subprocess.run(
        command("busybox", "--", "printf", "<%s>", *words),
        capture_output=True,
        stdin=subprocess.DEVNULL,
        timeout=PATIENCE,
        check=False,
    )
    assert done.stdout.decode() == "".join(f"<{word}>" for word in words)


def test_a_script_on_standard_input_is_run() -> None:
    done = subprocess.run(
        command("busybox"),
        input=b"echo $((6 * 7)); exit 3\n",
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (done.returncode, done.stdout) == (3, b"42\n")


def test_work_in_the_guest_has_the_hosts_results() -> None:
    zeros = hashlib.sha256(bytes(32 << 20)).hexdigest()
    done = in_guest(
        "dd if=/dev/zero bs=1M count=32 2>/dev/null | sha256sum | cut -c1-64\n"
        "dd if=/dev/urandom of=/tmp/r bs=1M count=8 2>/dev/null\n"
        "gzip -c /tmp/r | gunzip -c | cmp - /tmp/r && echo same\n"
        "seq 50000 | sort -rn | awk '{ s += $1 } END { print s }'\n"
        "ps | grep -c . >/dev/null && mount | grep -q ' /proc ' && echo mounted\n"
    )

    assert done.stdout.decode().split() == [zeros, "same", "1250025000", "mounted"]


@pytest.mark.skipif(memory_size() < 5 << 30, reason="this host has not the RAM for such a guest")
def test_ram_above_the_devices_is_used() -> None:
    """Linux allocates memory above 4 GiB first."""
    data = random.Random(2).randbytes(100_000)
    done = in_guest(
        "sed -n 's/ : System RAM//p' /proc/iomem; "
        "sed -n 's/^MemTotal: *//p' /proc/meminfo; sha256sum",
        data, "--memory", "4G",
    )  # fmt: skip
    *ram, total, digest = done.stdout.decode().splitlines()

    assert ram[-2:] == ["00100000-bfffffff", "100000000-13fffffff"]
    assert 3 << 20 < int(total.split()[0]) < 4 << 20
    assert digest.split()[0] == hashlib.sha256(data).hexdigest()


def test_kernel_has_nothing_to_complain_of() -> None:
    done = in_guest(
        "dmesg | grep -E 'WARNING|BUG:|Oops|unstable|soft lockup|Call Trace'\n"
        "cat /sys/devices/system/clocksource/clocksource0/current_clocksource\n"
        "grep -l Vulnerable /sys/devices/system/cpu/vulnerabilities/*\n"
        "dmesg | grep -c 'x2apic enabled'\n",
        b"",
        "-m",
        "256M",
    )
    assert done.stdout.decode().split() == ["tsc", "1"]


def sizes_always(*options: str) -> list[str]:
    """Return the sizes of pages in KiB that a program gets without asking."""
    there = "/sys/kernel/mm/transparent_hugepage/hugepages-*kB/enabled"
    done = in_guest(f"grep -l '\\[always\\]' {there} || true", b"", *options)
    assert (done.returncode, done.stderr) == (0, b"")
    return sorted(re.findall(r"hugepages-(\d+)kB", done.stdout.decode()), key=int)


def test_programs_get_more_than_a_page_at_once() -> None:
    assert sizes_always() == ["16", "32", "64"]


def test_the_user_may_turn_larger_pages_off() -> None:
    assert sizes_always("--append", "thp_anon=16K-64K:never") == []


def test_larger_pages_save_faults() -> None:
    """A program touches thousands of new pages: a string doubles until it has 8 MiB."""
    script = "awk 'BEGIN { s = 1; while (length(s) < 8388608) s = s s }'"
    # Pages of 2 MiB would save them, too.
    few, many = (
        direct_counters(in_guest(script, b"", "--stats", "--append", arguments).stderr.decode())
        for arguments in (
            "transparent_hugepage=never", "transparent_hugepage=never thp_anon=16K-64K:never",
        )
    )  # fmt: skip

    assert many["direct_faults"] - few["direct_faults"] > 3000


def test_debian_12s_kernel_is_there_too() -> None:
    package = f"{CLOUD_KERNEL}/bookworm"
    try:
        fetch_kernel(package)
    except ImageError as error:
        pytest.skip(f"no kernel of Debian 12 here: {error}")
    done = in_guest("uname -r; env; cat /proc/cmdline", b"", "--package", package)

    assert done.stdout.startswith(b"6.1.0-")
    assert b"thp_anon" not in done.stdout
    assert (done.returncode, done.stderr) == (0, b"")


def test_guest_time_is_the_hosts() -> None:
    script = "while read -r x; do echo $(date +%s) $(cut -d' ' -f1 /proc/uptime); done"
    samples = []
    with subprocess.Popen(
        command("busybox", "--", "sh", "-c", script), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as guest:
        assert guest.stdin is not None
        assert guest.stdout is not None
        for _ in range(2):
            guest.stdin.write(b"\n")
            guest.stdin.flush()
            wall_text, up_text = guest.stdout.readline().split()
            samples.append((float(wall_text), float(up_text), time.time()))
            time.sleep(3)
        guest.stdin.close()
        assert guest.wait(PATIENCE) == 0
    (wall, up, host), (_, later_up, later_host) = samples

    assert abs(wall - host) <= 2
    assert later_up - up == pytest.approx(later_host - host, abs=0.5)


def test_panic_ends_the_run_in_a_line() -> None:
    done = in_guest("echo c >/proc/sysrq-trigger; sleep 5")

    assert done.returncode == 3
    assert done.stderr.count(b"\n") == 1
    assert done.stderr.startswith(b"ringlet: the guest's kernel panicked: sysrq triggered crash; ")
    assert b"--verbose shows the kernel's messages" in done.stderr


def test_panic_of_a_command_whose_messages_are_shown() -> None:
    done = in_guest("echo c >/proc/sysrq-trigger; sleep 5", b"", "--verbose")

    assert done.returncode == 3
    assert done.stderr.endswith(b"ringlet: the guest's kernel panicked: sysrq triggered crash\n")


def test_reset_by_a_command_is_no_panic() -> None:
    done = in_guest("reboot -f; sleep 5")

    assert done.returncode == 3
    assert done.stderr == b"ringlet: the guest reset its machine before the command ended\n"


def test_halt_says_what_to_do() -> None:
    done = in_guest("halt -f; sleep 5")

    assert done.returncode == 4
    assert done.stderr.startswith(b"ringlet: the guest halted, which leaves its power on; poweroff")


def test_run_that_takes_too_long() -> None:
    done = in_guest("sleep 100", b"", "--timeout", "3s")

    assert done.returncode == 124
    assert done.stderr == b"ringlet: the guest was still running after 3 s\n"


def test_options_end_at_the_guests_name() -> None:
    done = subprocess.run(
        command("-m", "200", "-e", "GREETING=a b", "-w", "/tmp", "busybox", "sh", "-c",
                'echo "$GREETING"; pwd; exec "$0" -m', "uname"),
        capture_output=True, stdin=subprocess.DEVNULL, timeout=PATIENCE, check=False,
    )  # fmt: skip

    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == b"a b\n/tmp\nx86_64\n"


def test_guest_on_a_kernel_of_the_users_own(kernel: CachedKernel, tmp_path: Path) -> None:
    log = tmp_path / "log"
    done = subprocess.run(
        command("--kernel", str(kernel.vmlinuz), "--log", str(log), "busybox", "uname", "-r"),
        capture_output=True, stdin=subprocess.DEVNULL, timeout=PATIENCE, check=False,
    )  # fmt: skip

    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode() == f"{kernel.release}\n"
    assert b"Linux version 6." in log.read_bytes()


def test_command_on_a_kernel_without_the_driver_of_the_agents_port(kernel: CachedKernel) -> None:
    data = random.Random(4).randbytes(100_000)
    done = subprocess.run(
        command("--kernel", str(kernel.vmlinuz), "busybox", "sh", "-c", "cat; exit 5"),
        input=data, capture_output=True, timeout=PATIENCE, check=False,
    )  # fmt: skip

    assert (done.returncode, done.stdout, done.stderr) == (5, data, b"")


def test_reset_of_a_shell_whose_messages_are_shown() -> None:
    done = subprocess.run(
        command("busybox", "--verbose"), input=b"reboot -f\n", capture_output=True, check=False,
        timeout=PATIENCE,
    )  # fmt: skip

    assert done.returncode == 3
    assert done.stderr.endswith(b"ringlet: the guest reset its machine before the shell ended\n")


# --- a kernel given by the user


def test_kernel_by_its_file_prints_on_the_console_and_ends_with_its_panic(
    kernel: CachedKernel,
) -> None:
    done = subprocess.run(
        command(str(kernel.vmlinuz)), stdin=subprocess.DEVNULL, capture_output=True,
        timeout=PATIENCE, check=False,
    )  # fmt: skip

    assert done.returncode == 3
    assert b"Command line: console=ttyS0 panic=-1\r\n" in done.stdout
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith("ringlet: the guest's kernel panicked: VFS: Unable to mount root fs")
    assert line.endswith("; a kernel alone needs --initrd FILE, or a guest: ringlet run --kernel "
                         "FILE debian")  # fmt: skip
    assert b"Kernel panic - not syncing: VFS: Unable to mount root fs" in done.stdout


def test_append_of_the_user_replaces_what_ends_a_run_at_a_panic(kernel: CachedKernel) -> None:
    done = subprocess.run(
        command("--timeout", "6", "--append", "console=ttyS0", str(kernel.vmlinuz)),
        stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE, check=False,
    )  # fmt: skip

    assert done.returncode == 124
    assert b"Command line: console=ttyS0\r\n" in done.stdout
    assert b"Kernel panic - not syncing: VFS: Unable to mount root fs" in done.stdout


def test_kernel_without_a_disk_panics_and_resets(kernel: CachedKernel) -> None:
    done = subprocess.run(
        command("--kernel", str(kernel.vmlinuz), "--append", "console=ttyS0 panic=-1",
                "--no-reboot", "--memory", "256M"),
        capture_output=True, stdin=subprocess.DEVNULL, timeout=PATIENCE, check=False,
    )  # fmt: skip

    assert done.returncode == 3
    assert b"Linux version 6." in done.stdout
    assert done.stderr.startswith(b"ringlet: the guest's kernel panicked: VFS: Unable to mount ")


def test_console_to_a_file(kernel: CachedKernel, tmp_path: Path) -> None:
    log = tmp_path / "console.log"
    done = subprocess.run(
        command("--kernel", str(kernel.vmlinuz), "--append", "console=ttyS0 panic=-1",
                "--no-reboot", "--console", f"file:{log}"),
        capture_output=True, stdin=subprocess.DEVNULL, timeout=PATIENCE, check=False,
    )  # fmt: skip

    assert (done.returncode, done.stdout) == (3, b"")
    assert b"Kernel panic" in log.read_bytes()


def without_64_bit_entry(kernel: Path, directory: Path) -> Path:
    """Return the bzImage without the flag of its 64-bit entry."""
    image = bytearray(kernel.read_bytes())
    image[XLOADFLAGS] &= ~XLF_KERNEL_64
    path = directory / "bzImage"
    path.write_bytes(image)
    return path


def with_pvh_alone(kernel: Path, directory: Path) -> Path:
    """Return the vmlinux that is in the bzImage, with no ELF entry point."""
    path = unpack(kernel, directory)
    image = bytearray(path.read_bytes())
    image[24:32] = bytes(8)
    path.write_bytes(image)
    return path


@pytest.mark.parametrize(
    "change", [unpack, without_64_bit_entry, with_pvh_alone], ids=["vmlinux", "32 bits", "PVH"]
)
def test_kernel_that_starts_at_another_entry(
    kernel: CachedKernel, tmp_path: Path, change: Callable[[Path, Path], Path]
) -> None:
    try:
        image = change(kernel.vmlinuz, tmp_path)
    except HostError as error:
        pytest.skip(str(error))
    disk = tmp_path / "initrd"
    disk.write_bytes(make_initramfs(find_busybox(), Shell()))
    done = subprocess.run(
        command("--kernel", str(image), "--initrd", str(disk), "--append", "console=ttyS0 quiet"),
        input=b"uname -r; cat /proc/cmdline\nexit\n",
        capture_output=True, timeout=PATIENCE, check=False,
    )  # fmt: skip

    assert (done.returncode, done.stderr) == (0, b"")
    assert f"\n{kernel.release}\r\nconsole=ttyS0 quiet\r\n".encode() in done.stdout


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_run(number: signal.Signals) -> None:
    guest = subprocess.Popen(
        command("busybox", "--", "sh", "-c", "echo up; sleep 1000"),
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert guest.stdout is not None
    assert guest.stdout.readline() == b"up\n"
    guest.send_signal(number)

    assert guest.wait(10) == 128 + number
    guest.communicate()


# --- a terminal


class Terminal:
    """The user's side of a terminal on which the shell runs."""

    def __init__(self, arguments: Sequence[str]) -> None:
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execvp(arguments[0], list(arguments))
        self.seen = b""

    def type(self, text: bytes) -> None:
        os.write(self.fd, text)

    def resize(self, rows: int, columns: int) -> None:
        termios.tcsetwinsize(self.fd, (rows, columns))

    def until(self, text: bytes) -> bytes:
        """Return what was printed up to `text`."""
        end = time.monotonic() + PATIENCE
        while text not in self.seen:
            ready, _, _ = select.select([self.fd], [], [], max(0.0, end - time.monotonic()))
            assert ready, self.seen
            self.seen += os.read(self.fd, 4096)
        before, _, self.seen = self.seen.partition(text)
        return before

    def ended(self) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    it = Terminal(command("busybox"))
    yield it
    os.close(it.fd)


def test_shell_on_the_terminal(terminal: Terminal) -> None:
    terminal.until(b"# ")
    terminal.type(b"echo $((6*7)); tty\n")
    assert b"42\r\n/dev/ttyS0\r\n" in terminal.until(b"# ")
    terminal.type(b"sleep 1000\n")
    terminal.until(b"sleep 1000\r\n")
    time.sleep(0.5)
    terminal.type(b"\x03")
    terminal.until(b"# ")
    terminal.type(b"exit 5\n")
    assert terminal.ended() == 5


def test_escape_ends_the_machine(terminal: Terminal) -> None:
    terminal.until(b"# ")
    terminal.type(b"\x01h")
    assert b"Ctrl-A x" in terminal.until(b"to the guest")
    terminal.type(b"\x01x")
    assert terminal.ended() == 0


@pytest.mark.parametrize(
    "end", [lambda it: it.type(b"\x01x"), lambda it: os.kill(it.pid, signal.SIGTERM)]
)
def test_the_hosts_prompt_gets_a_line_of_its_own(
    terminal: Terminal, end: Callable[[Terminal], object]
) -> None:
    terminal.until(b"# ")
    end(terminal)

    terminal.until(b"\r\n")
    terminal.ended()


def test_progress_is_shown_until_the_guest_prints(terminal: Terminal) -> None:
    told, _, guests = terminal.until(b"# ").rpartition(b"\x1b[1A\x1b[2K")

    assert b"starting Linux 6." in told
    assert told.startswith(b"\x1b[?25l")
    assert told.endswith(b"\n\x1b[?25h\r"), "the cursor is there again"
    assert b"starting" not in guests
    terminal.type(b"exit\n")
    assert terminal.ended() == 0


def test_progress_is_shown_until_a_command_starts() -> None:
    terminal = Terminal(command("busybox", "--", "echo", "up"))
    told = terminal.until(b"up\r\n")
    status = terminal.ended()
    os.close(terminal.fd)

    assert b"starting Linux 6." in told
    assert told.endswith(b"\n\x1b[?25h\r\x1b[1A\x1b[2K")
    assert status == 0


def test_new_size_of_the_window_reaches_the_guest(terminal: Terminal) -> None:
    terminal.resize(30, 100)
    terminal.until(b"# ")
    terminal.type(b"stty size\n")
    terminal.until(b"\n30 100\r\n")
    terminal.type(b"sh -c 'trap \"stty size\" WINCH; echo go; while :; do sleep 1; done'\n")
    terminal.until(b"\ngo\r\n")
    terminal.resize(50, 132)
    terminal.until(b"50 132\r\n")
    terminal.type(b"\x03exit 6\n")
    assert terminal.ended() == 6


def test_size_of_the_window_reaches_a_guest_that_has_booted() -> None:
    if Images().find("debian") is None:
        pytest.skip("there is no image of Debian yet")
    terminal = Terminal(command("debian"))
    try:
        terminal.resize(30, 100)
        terminal.until(b":~# ")
        terminal.type(b"echo =$(stty size)=\n")
        terminal.until(b"=30 100=")
        # stty sets rows and columns one after the other, and bash forgets a signal that arrives
        # while the signal's trap runs, so the trap itself does next to nothing.
        loop = b"trap w=1 WINCH; echo g''o; while :; do test \\$w && stty size; sleep .1; done"
        terminal.type(b'bash -c "%b"\n' % loop)
        terminal.until(b"go\r\n")
        terminal.resize(50, 132)
        terminal.until(b"50 132\r\n")
        terminal.type(b"\x01x")

        assert terminal.ended() == 0
    finally:
        os.close(terminal.fd)


def test_summary_of_a_run() -> None:
    done = in_guest("exit 7", b"", "--stats")

    assert done.returncode == 7
    assert re.search(rb"\ntime +\d+\.\d\d s from the command's start to the kernel's entry, "
                     rb"\d+\.\d\d s from there to init, ", done.stderr)  # fmt: skip
    assert re.search(rb"\nexits +port reads [1-9]", done.stderr)


# --- from Python


def test_machine_from_python() -> None:
    with ringlet.Machine("busybox", memory="256M") as machine:
        machine.start()
        assert "error" not in machine.console.expect("# ", PATIENCE), "it has one port alone"
        machine.console.send("echo $((6 * 7))\n")
        assert "42\r\n" in machine.console.expect(re.compile("42\r\n.*# "), PATIENCE)
        assert machine.counters()["interrupts"] > 0
        machine.console.send("exit\n")
        assert machine.wait(PATIENCE).kind is EndKind.POWER_OFF
    with pytest.raises(EOFError):
        machine.console.send("too late\n")


def test_machines_side_by_side_in_one_process() -> None:
    async def run(number: int) -> str:
        async with ringlet.AsyncMachine("busybox", memory="128M") as machine:
            await machine.start()
            await machine.console.expect("# ", PATIENCE)
            await machine.console.send(f"echo $(({number} * 1000 + 1))\n")
            return await machine.console.expect(f"{number}001\r\n", PATIENCE)

    async def both() -> tuple[str, str]:
        return await asyncio.gather(run(1), run(2))

    first, second = asyncio.run(both())
    assert first.endswith("1001\r\n")
    assert second.endswith("2001\r\n")
