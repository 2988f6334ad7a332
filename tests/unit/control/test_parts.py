"""What a user writes for directories and variables."""

from pathlib import Path
from typing import Any

import pytest

from ringlet.control import parts
from ringlet.control.parts import Mount
from ringlet.errors import ConfigError


def test_mounts(tmp_path: Path) -> None:
    assert parts.mount(f"{tmp_path}:/mnt", "-v") == Mount(tmp_path.resolve(), "/mnt")
    assert parts.mount(f"{tmp_path}:/mnt:ro", "-v").read_only
    assert not parts.mount(f"{tmp_path}:/mnt:rw", "-v").read_only
    assert parts.mount(f"{tmp_path}:/mnt:ro,delegated", "-v") == Mount(
        tmp_path.resolve(), "/mnt", read_only=True, delegated=True
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("/tmp", "not a directory and its place"),
        ("/tmp:", "not a directory and its place"),
        ("/tmp:/a:b", "'b' is no option of a share; give ro, rw or delegated, or leave it out$"),
        ("/tmp:/a:ro:rw", "not a directory and its place"),
        ("/tmp:mnt", "no absolute path; give one, such as /mnt$"),
        ("/tmp:/mnt/../etc", "no absolute path"),
        ("data:/mnt", "data: no such directory; make it first$"),
        ("/dev/null:/mnt", "/dev/null: is no directory, and files are not shared alone; share "),
        ("/etc/passwd:/mnt", "/etc/passwd: is no directory, and files are .* with ringlet cp$"),
    ],
)
def test_mounts_that_are_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^-v {text}: .*{message}|^-v {text}: {message}"):
        parts.mount(text, "-v")


@pytest.mark.parametrize(
    ("place", "owned"),
    [
        ("/", "/"), ("//", "/"), ("/proc", "/proc"), ("/proc/x", "/proc"), ("/sys/fs", "/sys"),
        ("//dev/", "/dev"), ("/dev/pts", "/dev/pts"), ("/run", "/run"), ("/var/run/", "/var/run"),
        ("/run/ringlet/x", "/run/ringlet"),
    ],
)  # fmt: skip
def test_places_that_the_guest_needs_itself(tmp_path: Path, place: str, owned: str) -> None:
    text = f"{tmp_path}:{place}"
    message = f"^-v {text}: the guest itself needs {owned}; give another place, such as /mnt$"

    with pytest.raises(ConfigError, match=message):
        parts.mount(text, "-v")
    with pytest.raises(ConfigError, match=message):
        parts.mount(Mount(tmp_path, place), "-v")


@pytest.mark.parametrize("place", ["/dev/shm", "/run/x", "/tmp", "/tmp/x", "/runs", "/var/run/x"])
def test_places_that_the_guest_mounts_as_well(tmp_path: Path, place: str) -> None:
    assert parts.mount(f"{tmp_path}:{place}", "-v").target == place


def test_two_shares_at_one_place_are_refused() -> None:
    one, other = Mount(Path("/one"), "/p"), Mount(Path("/other"), "//p/.")

    with pytest.raises(ConfigError, match=r"^-v /other://p/\.: the guest has /one at /p; "):
        parts.check_places([one, Mount(Path("/"), "/p/q"), other], "-v")
    with pytest.raises(ConfigError, match="the guest has /one at /p"):
        parts.check_places([one, one], "-v")


def test_shares_at_several_places_are_taken() -> None:
    parts.check_places([Mount(Path("/one"), place) for place in ("/p", "/p/q", "/P")], "-v")


def test_variables() -> None:
    host = {"HOME": "/root", "EMPTY": ""}
    found = parts.variables(["A=1", "HOME", "B=", "NONE", "EMPTY", "A=2=3"], "-e", host)

    assert dict(found) == {"A": "2=3", "HOME": "/root", "B": "", "EMPTY": ""}
    assert parts.variables({"A": "1"}, "env") == (("A", "1"),)


@pytest.mark.parametrize("given", [["1A=2"], ["=x"], [""], ["A B=1"], {"A": "x\0"}])
def test_variables_that_are_refused(given: Any) -> None:
    with pytest.raises(ConfigError, match=r"^-e "):
        parts.variables(given, "-e")


def test_a_file_of_variables(tmp_path: Path) -> None:
    file = tmp_path / "env"
    file.write_text("# comment\n\nA=1\n  B=two words \n")

    assert parts.variables_of_file(file, "--env-file") == ["A=1", "B=two words"]
    file.write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="is not text in UTF-8"):
        parts.variables_of_file(file, "--env-file")


@pytest.mark.parametrize(
    ("given", "items"),
    [(None, []), ("a:b", ["a:b"]), (["a:b", "c:d"], ["a:b", "c:d"]), ({8080: 80}, ["8080:80"])],
)
def test_one_and_several(given: object, items: list[object]) -> None:
    assert parts.several(given) == items


# --- sockets beside what a guest may write


@pytest.fixture
def share(tmp_path: Path) -> Path:
    (tmp_path / "share" / "below").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (tmp_path / "share" / "link").symlink_to(tmp_path / "outside")
    (tmp_path / "way").symlink_to(tmp_path / "share")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    return tmp_path / "share"


@pytest.mark.parametrize(
    "path", ["share/s", "share/below/s", "way/s", "share/link/s", "outside/../share/s",
             "share/none/s"],
)  # fmt: skip
def test_sockets_that_a_guest_could_lead_astray(share: Path, path: str) -> None:
    with pytest.raises(ConfigError, match=r"^--vsock .*/s: the guest may write to .*/share; give"):
        parts.check_sockets(share.parent / path, [Mount(share, "/mnt")], "--vsock")


@pytest.mark.parametrize("path", ["s", "outside/s", "share/below/../../s", "none/s", "loop/s"])
def test_sockets_out_of_a_guests_reach(share: Path, path: str) -> None:
    mounts = [Mount(share / "below", "/mnt"), Mount(share, "/ro", read_only=True)]

    parts.check_sockets(share.parent / path, mounts, "--vsock")


def test_sockets_above_the_directory_that_is_shared(
    share: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(share)

    parts.check_sockets(Path("../s"), [Mount(share, "/mnt")], "--vsock")
    with pytest.raises(ConfigError, match=r"^vsock s: the guest may write to"):
        parts.check_sockets(Path("s"), [Mount(share, "/mnt")], "vsock")
