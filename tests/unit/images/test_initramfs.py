"""The initial RAM disk: its contents, and the meaning of its shell scripts."""

import importlib.resources
import re
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from ringlet.errors import ConfigError, ImageError
from ringlet.images.busybox import NEEDED
from ringlet.images.channel import END_OF_INPUT, FRAME_SIZE, frames
from ringlet.images.initramfs import Command, File, Root, Shell, Surroundings, make_initramfs
from tests.unit.images.cpio_reader import Member, members

EVERY_BYTE = bytes(range(1, 256))
INIT = importlib.resources.files("ringlet.images").joinpath("init.sh").read_text()


@pytest.fixture
def busybox(tmp_path: Path) -> Path:
    path = tmp_path / "busybox"
    names = "bin/busybox bin/sh usr/bin/awk sbin/poweroff linuxrc opt/x/tool"
    path.write_text(f"#!/bin/sh\nprintf '%s\\n' {names}\n")
    path.chmod(0o755)
    return path


def made(busybox: Path, task: Shell | Command, hostname: str = "debian") -> dict[str, Member]:
    return members(make_initramfs(busybox, task, hostname=hostname))


def sourced(script: bytes, then: str) -> bytes:
    """Return what `then` prints after the host's shell has read `script`."""
    text = script + b"\n" + then.encode()
    return subprocess.run(["sh"], input=text, capture_output=True, check=True).stdout


def test_init_and_busybox_can_be_executed(busybox: Path) -> None:
    found = made(busybox, Shell())

    assert found["init"].mode == stat.S_IFREG | 0o755
    assert found["bin/busybox"].mode == stat.S_IFREG | 0o755
    assert found["bin/busybox"].content == busybox.read_bytes()


def test_applets_are_links_where_busybox_wants_them(busybox: Path) -> None:
    found = made(busybox, Shell())
    links = {n: m.content for n, m in found.items() if stat.S_ISLNK(m.mode)}

    assert links == dict.fromkeys(["bin/sh", "usr/bin/awk", "sbin/poweroff"], b"/bin/busybox")


def test_the_kernel_finds_a_console(busybox: Path) -> None:
    console = made(busybox, Shell())["dev/console"]

    assert (stat.S_IFMT(console.mode), console.device) == (stat.S_IFCHR, (5, 1))


def test_contents_follow_their_directory(busybox: Path) -> None:
    names = list(made(busybox, Command((b"true",))))

    assert all(names.index(n.rpartition("/")[0]) < names.index(n) for n in names if "/" in n)


def test_settings_of_a_shell(busybox: Path) -> None:
    settings = made(busybox, Shell("xterm", 50, 132), "box")["ringlet/settings"].content
    then = 'echo "$hostname" "$TERM" "$rows" "$columns"'

    assert sourced(settings, then) == b"box xterm 50 132\n"
    assert "ringlet/command" not in made(busybox, Shell())


def test_size_of_the_console_of_a_guest_that_boots(busybox: Path) -> None:
    around = Surroundings(window=(40, 132))
    archive = make_initramfs(busybox, None, root=Root(boot=True), around=around)
    settings = members(archive)["ringlet/settings"].content

    assert sourced(settings, 'echo "$rows" "$columns"') == b"40 132\n"


def test_settings_are_quoted(busybox: Path) -> None:
    settings = made(busybox, Shell("x'; echo oops #"))["ringlet/settings"].content

    assert sourced(settings, 'echo "$TERM"') == b"x'; echo oops #\n"


@pytest.mark.parametrize("shell", ["sh", "bash", "dash", "busybox"])
def test_every_byte_of_an_argument_is_kept(busybox: Path, shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"this host has no {shell}")
    argv = (b"printf", EVERY_BYTE, b"", b"-n", b"two words", b"'")
    command = made(busybox, Command(argv))["ringlet/command"].content
    program = [shell, "sh"] if shell == "busybox" else [shell]
    done = subprocess.run(
        [*program, "-c", ". /dev/stdin; printf '%s\\0' \"$@\""],
        input=command, capture_output=True, check=True, env={"LC_ALL": "C"},
    )  # fmt: skip

    assert tuple(done.stdout.split(b"\0")[:-1]) == argv


def test_arguments_are_for_root_only(busybox: Path) -> None:
    assert made(busybox, Command((b"x",)))["ringlet/command"].mode == stat.S_IFREG | 0o600


def test_same_task_gives_the_same_bytes(busybox: Path) -> None:
    assert make_initramfs(busybox, Shell()) == make_initramfs(busybox, Shell())


@pytest.mark.parametrize("argv", [(), (b"",), (b"a\0b",)])
def test_commands_that_cannot_be(busybox: Path, argv: tuple[bytes, ...]) -> None:
    with pytest.raises(ConfigError):
        make_initramfs(busybox, Command(argv))


@pytest.mark.parametrize("name", ["", "-x", "x-", "a b", "a_b", "x" * 65, "\n", "a\n"])
def test_names_that_no_host_has(busybox: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="is not a host name"):
        make_initramfs(busybox, Shell(), hostname=name)


@pytest.mark.parametrize("shell", [Shell(rows=-1), Shell(columns=65536)])
def test_windows_that_no_terminal_has(busybox: Path, shell: Shell) -> None:
    with pytest.raises(ConfigError, match="no terminal has"):
        make_initramfs(busybox, shell)


def test_busybox_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="cannot be read: No such file"):
        make_initramfs(tmp_path / "busybox", Shell())


# --- the script that becomes process 1


def test_init_is_a_shell_script_without_a_slip() -> None:
    assert INIT.startswith("#!/bin/sh\n")
    subprocess.run(["sh", "-n"], input=INIT.encode(), check=True)


def test_init_calls_only_what_busybox_is_asked_for() -> None:
    called = set(re.findall(r"^\s*(?:exec )?([a-z]+)(?: |$)", INIT, re.MULTILINE))
    shell_words = set(
        "export cd read kill wait echo exec while done do for esac case if else fi raw feed "
        "run_command run_shell load lacks cannot printf until elif return break".split()
    )

    assert {"mount", "stty", "poweroff", "mkfifo", "setsid"} <= called
    assert called - shell_words - NEEDED == set()


def fed(data: bytes) -> tuple[bytes, bytes]:
    """Return the output of init's `feed` for the bytes on the port, and its requests."""
    function = re.search(r"^feed\(\) \{\n.*?^\}\n", INIT, re.MULTILINE | re.DOTALL)
    assert function is not None
    done = subprocess.run(
        ["sh", "-c", function[0] + "feed 3>&2"], input=data, capture_output=True, check=False
    )
    return done.stdout, done.stderr


@pytest.mark.parametrize("size", [1, 5, FRAME_SIZE, FRAME_SIZE + 1, 3 * FRAME_SIZE])
def test_frames_become_the_input_again(size: int) -> None:
    data = (EVERY_BYTE + b"\0\n0\n") * (size // 200 + 1)
    framed = [*frames(data[:size]), END_OF_INPUT]

    asked = b"next\n" * len(framed)
    assert fed(b"".join(framed) + b"5\nafter") == (data[:size], asked)


def test_no_input_is_an_end_at_once() -> None:
    assert fed(END_OF_INPUT) == (b"", b"next\n")


def settings(busybox: Path, task: Shell | Command | None, root: Root, then: str) -> bytes:
    """Return what `then` prints after a shell has read the settings of a guest with a root."""
    found = members(make_initramfs(busybox, task, root=root))
    return sourced(found["ringlet/settings"].content, then)


def test_the_settings_of_a_root(busybox: Path) -> None:
    root = Root(
        "my tag", "virtiofs", "ro", overlay=True, boot=True, init="/init x",
        modules=("overlay", "isofs"), modules_disk="/dev/vdb",
    )  # fmt: skip

    told = settings(busybox, None, root, 'echo "$root|$root_type|$root_options|$overlay|$boot"')
    more = settings(busybox, None, root, 'echo "$init|$modules|$modules_disk"')

    assert told == b"my tag|virtiofs|ro|1|1\n"
    assert more == b"/init x|overlay isofs|/dev/vdb\n"


def test_files_for_the_directory_run(busybox: Path) -> None:
    root = Root(files=(File("a/b/c", b"text"), File("a/d", b"x", program=True)))

    found = members(make_initramfs(busybox, Shell(), root=root))

    assert found["ringlet/run/a/b/c"].content == b"text"
    assert found["ringlet/run/a/d"].mode == stat.S_IFREG | 0o755
    assert stat.S_ISDIR(found["ringlet/run/a/b"].mode)
