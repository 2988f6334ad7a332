"""The seed of a cloud image, read back."""

import io
from pathlib import Path

import pytest

from ringlet.errors import ConfigError
from ringlet.images.seed import (
    MAX_USER_DATA,
    check_user_data,
    login,
    make_seed,
    read_user_data,
    seed_of,
)

pycdlib = pytest.importorskip("pycdlib")
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIExample user@host"


def read(seed: bytes, name: str) -> bytes:
    image = pycdlib.PyCdlib()
    image.open_fp(io.BytesIO(seed))
    out = io.BytesIO()
    image.get_file_from_iso_fp(out, rr_path=f"/{name}")
    image.close()
    return out.getvalue()


def test_the_files_that_cloud_init_reads() -> None:
    seed = make_seed(b"#cloud-config\n", instance="one", hostname="my-guest")

    assert read(seed, "user-data") == b"#cloud-config\n"
    assert read(seed, "meta-data") == b"instance-id: one\nlocal-hostname: my-guest\n"
    assert b"dhcp4: true" in read(seed, "network-config")


def test_the_label_by_which_cloud_init_finds_it() -> None:
    assert make_seed(b"", instance="one")[0x8028:0x8048] == b"cidata".ljust(32)


def test_login_with_keys(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(f"{KEY}\n")

    text = login(path).decode()

    assert text.startswith("#cloud-config\n")
    assert f"  - {KEY}\n" in text


@pytest.mark.parametrize("text", ["", "x", f"{KEY}\nruncmd: [x]"])
def test_files_that_are_no_keys(tmp_path: Path, text: str) -> None:
    path = tmp_path / "keys"
    path.write_text(text)

    with pytest.raises(ConfigError, match="not a file of public keys"):
        login(path)


def test_a_file_of_keys_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        login(tmp_path / "none")


@pytest.mark.parametrize("name", ["", "a b", "a\nb", "-a", "a" * 64])
def test_names_that_no_host_has(name: str) -> None:
    with pytest.raises(ConfigError, match="is not a name"):
        make_seed(b"", instance="one", hostname=name)


def test_user_data_that_is_too_long() -> None:
    with pytest.raises(ConfigError, match="takes 1 MiB"):
        make_seed(bytes(MAX_USER_DATA + 1), instance="one")


# --- what a user gives


def test_other_data_is_another_instance() -> None:
    first, second = (read(seed_of(data, "box"), "meta-data") for data in (b"#!/bin/a", b"#!/bin/b"))

    assert first != second
    assert read(seed_of(b"#!/bin/a", "box"), "meta-data") == first
    assert b"local-hostname: box\n" in first


@pytest.mark.parametrize("name", ["", "my_box", "a.b"])
def test_names_of_machines_that_are_none_of_hosts(name: str) -> None:
    assert b"local-hostname: ringlet\n" in read(seed_of(b"#!/bin/a", name), "meta-data")


@pytest.mark.parametrize(
    "data",
    [b"#cloud-config\n", b"#!/bin/sh\n", b"#include\nhttps://x\n", b"## template: jinja\n",
     b"Content-Type: multipart/mixed\n", b"MIME-Version: 1.0\n", b"\x1f\x8b\x08"],
)  # fmt: skip
def test_user_data_that_cloud_init_takes(data: bytes) -> None:
    assert check_user_data(data, "--user-data") == data


@pytest.mark.parametrize("data", [b"", b"users: []\n", b" #cloud-config\n", b"\0"])
def test_user_data_that_cloud_init_would_ignore(data: bytes) -> None:
    with pytest.raises(ConfigError, match="--user-data f: cloud-init would ignore this"):
        check_user_data(data, "--user-data f")


def test_user_data_without_end(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(b"#" * (MAX_USER_DATA + 100))

    data = read_user_data(path, "--user-data")

    assert len(data) == MAX_USER_DATA + 1
    with pytest.raises(ConfigError, match="at most 1 MiB"):
        check_user_data(data, "--user-data")


def test_user_data_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--user-data .*: cannot be read: Is a directory"):
        read_user_data(tmp_path, "--user-data")
