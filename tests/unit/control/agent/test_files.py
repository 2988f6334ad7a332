"""Files in the guest."""

import errno
import os
import stat
import threading
import time
from pathlib import Path

import pytest

from ringlet.control.agent import Agent
from ringlet.control.agent.transfer import Transfer
from ringlet.errors import AgentError, AgentTimeoutError, ConfigError, GuestFileError, RingletError
from ringlet.guest.protocol import Operation, Request, Tag
from tests.unit.control.agent.native import names

NAMES = ["plain", "two words", "caf\u00e9", "\udcff\udcfe", "new\nline", "-rf", "x" * 255]


def test_write_and_read_back(agent: Agent, tmp_path: Path) -> None:
    data = os.urandom(3_000_000)

    agent.files.write(tmp_path / "file", data)

    assert (tmp_path / "file").read_bytes() == data
    assert agent.files.read(tmp_path / "file") == data


def test_text(agent: Agent, tmp_path: Path) -> None:
    agent.files.write(tmp_path / "file", "caf\u00e9 \udcff\n")

    assert (tmp_path / "file").read_bytes() == b"caf\xc3\xa9 \xff\n"
    assert agent.files.read_text(tmp_path / "file") == "caf\u00e9 \udcff\n"


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_possible(agent: Agent, tmp_path: Path, name: str) -> None:
    path = tmp_path / name[:240]

    agent.files.write(path, name)

    assert [info.name for info in agent.files.list(tmp_path)] == [name[:240]]
    assert agent.files.read_text(os.fsencode(path)) == name
    agent.files.remove(path)
    assert not path.exists()


def test_empty_file(agent: Agent, tmp_path: Path) -> None:
    agent.files.write(tmp_path / "file", b"")

    assert agent.files.read(tmp_path / "file") == b""


def test_mode_is_given_kept_or_usual(agent: Agent, tmp_path: Path) -> None:
    path = tmp_path / "file"

    agent.files.write(path, "1")
    usual = stat.S_IMODE(path.stat().st_mode)
    agent.files.write(path, "2", mode=0o4750)
    given = stat.S_IMODE(path.stat().st_mode)
    agent.files.write(path, "3")

    assert (usual, given, stat.S_IMODE(path.stat().st_mode)) == (0o644, 0o4750, 0o4750)


@pytest.mark.skipif(os.getuid() != 0, reason="only root gives files away")
def test_owner_is_given_or_kept(agent: Agent, tmp_path: Path) -> None:
    agent.files.write(tmp_path / "file", "1", owner=(12, 34))
    agent.files.write(tmp_path / "file", "2")

    assert ((tmp_path / "file").stat().st_uid, (tmp_path / "file").stat().st_gid) == (12, 34)


def test_readers_see_the_old_or_the_new_file(agent: Agent, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"a" * 100_000)
    with path.open("rb") as before:
        agent.files.write(path, b"b" * 50_000)

        assert before.read() == b"a" * 100_000
    assert path.read_bytes() == b"b" * 50_000
    assert names(tmp_path) == ["file"]


def test_link_stays_a_link_when_its_file_is_written(agent: Agent, tmp_path: Path) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")

    agent.files.write(tmp_path / "link", "new")

    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"


def test_what_is_no_plain_file_is_written_in_place(agent: Agent, tmp_path: Path) -> None:
    agent.files.write("/dev/null", "gone")
    agent.files.write("/proc/self/comm", "renamed")

    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


def test_proc_files_have_their_content(agent: Agent) -> None:
    assert agent.files.read_text("/proc/sys/kernel/ostype") == "Linux\n"


def test_reading_has_a_limit(agent: Agent, tmp_path: Path) -> None:
    with pytest.raises(GuestFileError, match="has more than 1000 bytes"):
        agent.files.read("/dev/zero", limit=1000)

    assert agent.files.read_text("/proc/sys/kernel/ostype", limit=6) == "Linux\n"


def test_operation_that_stalls_is_given_up(agent: Agent, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")

    with pytest.raises(AgentTimeoutError, match=r"nothing came from the guest for 0\.3 s"):
        agent.files.read(tmp_path / "fifo", timeout=0.3)

    mine = agent.info().agent_pid
    end = time.monotonic() + 20
    command = f"cat /proc/{mine}/task/{mine}/children"
    while len(agent.run(command).stdout.split()) > 1 and time.monotonic() < end:
        time.sleep(0.01)
    assert len(agent.run(command).stdout.split()) == 1


@pytest.mark.parametrize(
    ("call", "number"),
    [
        (lambda f, p: f.read(p / "none"), errno.ENOENT),
        (lambda f, p: f.read(p), errno.EISDIR),
        (lambda f, p: f.write(p / "none/file", "x"), errno.ENOENT),
        (lambda f, p: f.write(p, "x"), errno.EISDIR),
        (lambda f, p: f.stat(p / "none"), errno.ENOENT),
        (lambda f, p: f.list(p / "none"), errno.ENOENT),
        (lambda f, p: f.list("/etc/passwd"), errno.ENOTDIR),
        (lambda f, p: f.mkdir(p), errno.EEXIST),
        (lambda f, p: f.mkdir(p / "a/b"), errno.ENOENT),
        (lambda f, p: f.mkdir("/etc/passwd/a", parents=True), errno.ENOTDIR),
        (lambda f, p: f.remove(p / "none"), errno.ENOENT),
        (lambda f, p: f.remove(p.parent), errno.ENOTEMPTY),
        (lambda f, p: f.rename(p / "none", p / "other"), errno.ENOENT),
        (lambda f, p: f.symlink(p, "x"), errno.EEXIST),
        (lambda f, p: f.copy_out(p / "none", p / "copy"), errno.ENOENT),
        (lambda f, p: f.copy_in("/etc/hostname", "/proc/none/file"), errno.ENOENT),
        (lambda f, p: f.read(b""), errno.ENOENT),
        (lambda f, p: f.read("x" * 5000), errno.ENAMETOOLONG),
    ],
)  # fmt: skip
def test_errors_are_the_guests(agent: Agent, tmp_path: Path, call: object, number: int) -> None:
    with pytest.raises(GuestFileError) as caught:
        call(agent.files, tmp_path)  # type: ignore[operator]  # one of the functions above

    assert caught.value.errno == number
    assert isinstance(caught.value, OSError)
    assert isinstance(caught.value, RingletError)
    assert os.strerror(number) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_stat_has_what_the_kernel_says(agent: Agent, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("12345")
    os.utime(tmp_path / "file", ns=(10**18 + 1, -5 * 10**9 - 1))
    (tmp_path / "link").symlink_to("file")
    real = (tmp_path / "file").stat()

    info = agent.files.stat(tmp_path / "link")
    link = agent.files.stat(tmp_path / "link", follow=False)

    assert (info.mode, info.size, info.uid, info.gid, info.inode, info.device) == (
        real.st_mode, 5, real.st_uid, real.st_gid, real.st_ino, real.st_dev)  # fmt: skip
    assert info.modified == pytest.approx(-5.000000001)
    assert info.is_file and not info.is_dir and info.permissions == 0o644
    assert link.is_link and link.target == "file"


def test_exists(agent: Agent, tmp_path: Path) -> None:
    (tmp_path / "dangling").symlink_to("none")

    assert agent.files.exists(tmp_path)
    assert not agent.files.exists(tmp_path / "none")
    assert not agent.files.exists("/etc/passwd/x")
    assert not agent.files.exists(tmp_path / "dangling")
    assert agent.files.exists(tmp_path / "dangling", follow=False)


def test_large_directory_is_listed_by_name(agent: Agent, tmp_path: Path) -> None:
    for number in range(2000):
        (tmp_path / f"{number:0100d}").touch()

    listed = [info.name for info in agent.files.list(tmp_path)]

    assert listed == [f"{number:0100d}" for number in range(2000)]


def test_directories_are_made_with_their_parents(agent: Agent, tmp_path: Path) -> None:
    agent.files.mkdir(tmp_path / "a" / "b" / "c", parents=True, mode=0o700)
    agent.files.mkdir(tmp_path / "a" / "b" / "c", parents=True)

    assert stat.S_IMODE((tmp_path / "a/b/c").stat().st_mode) == 0o700


def test_tree_is_removed_but_not_what_links_lead_to(agent: Agent, tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept/file").touch()
    deep = tmp_path / "tree"
    for _ in range(100):
        deep /= "d"
    deep.mkdir(parents=True)
    (deep / "file").touch()
    (tmp_path / "tree/link").symlink_to(tmp_path / "kept")

    agent.files.remove(tmp_path / "tree", recursive=True)

    assert names(tmp_path) == ["kept"]
    assert (tmp_path / "kept/file").exists()
    agent.files.remove(tmp_path / "tree", missing_ok=True)


def test_relative_paths_begin_at_the_root(agent: Agent) -> None:
    assert agent.files.read("etc/hostname") == Path("/etc/hostname").read_bytes()


def test_rename_and_symlink(agent: Agent, tmp_path: Path) -> None:
    agent.files.symlink(tmp_path / "link", "no where")
    agent.files.rename(tmp_path / "link", tmp_path / "other")

    assert str((tmp_path / "other").readlink()) == "no where"


def test_zero_bytes_in_paths_are_refused(agent: Agent) -> None:
    with pytest.raises(ConfigError, match="zero byte"):
        agent.files.read("a\0b")


def test_interrupted_write_leaves_the_old_file(agent: Agent, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    agent.run(["true"])
    data = bytes(200_000_000)
    thread = threading.Thread(target=lambda: _ignore(agent, path, data))
    thread.start()
    end = time.monotonic() + 20
    while len(names(tmp_path)) < 2 and time.monotonic() < end:
        time.sleep(0.001)

    agent.close()
    thread.join(20)

    end = time.monotonic() + 20
    while len(names(tmp_path)) > 1 and time.monotonic() < end:
        time.sleep(0.01)
    assert names(tmp_path) == ["file"]
    assert path.read_text() == "old"


def test_write_that_is_given_up_leaves_nothing(agent: Agent, tmp_path: Path) -> None:
    size = len(b"whole")
    request = Request(Operation.WRITE, ((Tag.PATH, bytes(tmp_path / "file")),), size=size)
    transfer = Transfer(agent._ready(), request, "file", 20)

    def write_a_part() -> None:
        with transfer:
            transfer.send(b"part")
            while not names(tmp_path):
                time.sleep(0.001)
            raise KeyError

    with pytest.raises(KeyError):
        write_a_part()

    end = time.monotonic() + 20
    while names(tmp_path) and time.monotonic() < end:
        time.sleep(0.01)
    assert names(tmp_path) == []


def _ignore(agent: Agent, path: Path, data: bytes) -> None:
    with pytest.raises(AgentError):
        agent.files.write(path, data)


def test_sync_and_time_and_info(agent: Agent) -> None:
    agent.sync()
    info = agent.info()

    assert abs(agent.time() - time.time()) < 5
    assert info.release == os.uname().release
    assert info.hostname == os.uname().nodename
    assert abs(info.boot_time + info.uptime - time.time()) < 5
    assert info.boot_id == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
