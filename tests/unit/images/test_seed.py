"""The seed of a cloud image, read back."""

import io
from pathlib import Path

import pytest

from ringlet.errors import ConfigError
from ringlet.images.seed import MAX_USER_DATA, login, make_seed

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
