"""What a user writes for disks, directories, ports, networks and variables."""

from pathlib import Path
from typing import Any

import pytest

from ringlet.control import parts
from ringlet.control.parts import Disk, Mount, Net, Port
from ringlet.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "port"),
    [
        ("8080:80", Port(8080, 80)),
        ("0:22", Port(0, 22)),
        ("53:53/udp", Port(53, 53, udp=True)),
        ("80:80/tcp", Port(80, 80)),
        ("0.0.0.0:8080:80", Port(8080, 80, "0.0.0.0")),
        ("[::1]:8080:80", Port(8080, 80, "::1")),
    ],
)
def test_ports(text: str, port: Port) -> None:
    assert parts.port(text, "-p") == port


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("80", "not a forward; give HOST:GUEST"),
        ("", "not a forward"),
        ("a:80", "not a forward"),
        ("80:80/icmp", "not a forward"),
        ("80:", "not a forward"),
        ("80:65536", "a port is a number from 1 to 65535"),
        ("80:0", "a port is a number from 1 to 65535"),
        ("home:80:80", "home is not an address"),
    ],
)
def test_ports_that_are_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^-p {text}: .*{message}|^-p {text}: {message}"):
        parts.port(text, "-p")


@pytest.mark.parametrize(
    ("text", "net"),
    [("none", Net()), ("user", Net("user")), ("tap:tap0", Net("tap", "tap0"))],
)
def test_networks(text: str, net: Net) -> None:
    assert parts.net(text, "--net") == net


@pytest.mark.parametrize("text", ["", "host", "tap", "tap:", "tap:a/b", "tap:xxxxxxxxxxxxxxxx"])
def test_networks_that_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="give none, user or tap:NAME"):
        parts.net(text, "--net")


def test_mounts(tmp_path: Path) -> None:
    assert parts.mount(f"{tmp_path}:/mnt", "-v") == Mount(tmp_path.resolve(), "/mnt")
    assert parts.mount(f"{tmp_path}:/mnt:ro", "-v").read_only
    assert not parts.mount(f"{tmp_path}:/mnt:rw", "-v").read_only


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("/tmp", "not a directory and its place"),
        ("/tmp:", "not a directory and its place"),
        ("/tmp:/a:b", "not a directory and its place"),
        ("/tmp:mnt", "no absolute path"),
        ("/tmp:/mnt/../etc", "no absolute path"),
        ("data:/mnt", "data: no such directory"),
        ("/dev/null:/mnt", "/dev/null: is no directory"),
    ],
)
def test_mounts_that_are_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^-v {text}: .*{message}|^-v {text}: {message}"):
        parts.mount(text, "-v")


@pytest.mark.parametrize(
    ("name", "options", "read_only", "snapshot"),
    [("a.img", "", False, False), ("a.img", ",ro", True, False),
     ("a,b.img", ",snapshot", False, True), ("a.img", ",ro,snapshot", True, True)],
)  # fmt: skip
def test_disks(tmp_path: Path, name: str, options: str, read_only: bool, snapshot: bool) -> None:
    path = tmp_path / name
    path.touch()

    assert parts.disk(f"{path}{options}", "--disk") == Disk(path, read_only, snapshot)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "give the file"),
        (",ro", "give the file"),
        ("/nowhere/a.img", "no such file"),
        ("/tmp", "is a directory; share it with -v"),
        ("/dev/null,ro,if=virtio", "if=virtio is not ro or snapshot"),
    ],
)
def test_disks_that_are_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parts.disk(text, "--disk")


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
