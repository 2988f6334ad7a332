"""The store of images: whole or not at all, and kept while they are used."""

from pathlib import Path

import pytest

from ringlet.errors import ImageError
from ringlet.images.catalog import Images, Settings
from ringlet.images.store import Store


@pytest.fixture
def images(tmp_path: Path) -> Images:
    return Images(Store(tmp_path / "ringlet"))


def make(images: Images, name: str, data: bytes = b"disk") -> None:
    with images.adding(name, "tar") as draft:
        draft.disk.write_bytes(data)
        (draft.directory / "left").write_bytes(b"x")
        draft.settings = Settings(env=("A=1",), command=("sh",), user="1:1", boots=True)
        draft.source = "a.tar"


def test_an_empty_store(images: Images) -> None:
    assert images.list() == []
    assert images.find("debian") is None


def test_an_image_is_listed_and_found(images: Images) -> None:
    make(images, "ghcr.io/a/b:x")

    [image] = images.list()

    assert image == images.find("ghcr.io/a/b:x")
    assert (image.name, image.kind, image.format, image.source) == (
        "ghcr.io/a/b:x", "tar", "raw", "a.tar",
    )  # fmt: skip
    assert image.settings == Settings(("A=1",), (), ("sh",), "/", "1:1", "/dev/vda", boots=True)
    assert image.disk.read_bytes() == b"disk"
    assert sorted(path.name for path in image.disk.parent.iterdir()) == [
        "disk.raw", "image.json", "users",
    ]  # fmt: skip


def test_a_build_that_fails_leaves_the_old_image(images: Images) -> None:
    make(images, "a")

    def fail() -> None:
        with images.adding("a", "tar") as draft:
            draft.disk.write_bytes(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()

    assert [image.disk.read_bytes() for image in images.list()] == [b"disk"]
    assert [path.name for path in images.root.iterdir()] == ["a"]


def test_what_a_killed_build_left_is_removed_by_the_next(images: Images) -> None:
    (images.root / ".unfinished-1").mkdir(parents=True)
    (images.root / ".unfinished-1/disk.raw").write_bytes(b"x")

    make(images, "a")

    assert [path.name for path in images.root.iterdir()] == ["a"]


def test_an_image_is_replaced_while_it_is_used(images: Images) -> None:
    make(images, "a", b"old")
    image = images.find("a")
    assert image is not None

    with image.used() as disk, disk.open("rb") as file:
        make(images, "a", b"new")
        assert file.read() == b"old"

    assert images.list()[0].disk.read_bytes() == b"new"


def test_remove(images: Images) -> None:
    make(images, "a")
    images.remove("a")

    assert images.list() == []
    with pytest.raises(ImageError, match="there is no such image"):
        images.remove("a")


def test_an_image_in_use_is_not_removed(images: Images) -> None:
    make(images, "a")
    image = images.find("a")
    assert image is not None

    with image.used(), pytest.raises(ImageError, match="a running machine uses this image"):
        images.remove("a")
    images.remove("a")

    with pytest.raises(ImageError, match="gone from the store"), image.used():
        pass


@pytest.mark.parametrize("damage", ["shorter", "rewritten", "no description", "no JSON"])
def test_a_damaged_image_counts_as_absent(images: Images, damage: str) -> None:
    make(images, "a")
    disk = images.root / "a/disk.raw"
    disk.chmod(0o600)
    match damage:
        case "shorter":
            disk.write_bytes(b"d")
        case "rewritten":
            disk.write_bytes(b"ksid")
        case "no description":
            (images.root / "a/image.json").unlink()
        case _:
            (images.root / "a/image.json").write_text("[]")

    assert images.find("a") is None
    assert images.list() == []
    images.remove("a")
