"""What the cache keeps, and what of it no run needs."""

import os
import time
from pathlib import Path

import pytest

from ringlet.images import usage
from ringlet.images.catalog import Images
from ringlet.images.store import Store
from ringlet.images.usage import UNUSED_S, items, remove

NOW = 1_000_000_000.0


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "ringlet")
    for name in ("whole", "damaged"):
        with store.locked(), store.adding("kernels/trixie", name) as (directory, _):
            (directory / "vmlinuz").write_bytes(b"kernel" * 1000)
    (store.root / "kernels/trixie/damaged/vmlinuz").write_bytes(b"other")
    (store.root / "kernels/trixie/.unfinished-1").mkdir()
    (store.root / "apt/trixie").mkdir(parents=True)
    (store.root / "apt/trixie/lists").write_bytes(b"x" * 5000)
    (store.root / "bench/debian").mkdir(parents=True)
    translations = store.root / "translations"
    translations.mkdir()
    for name, age in (("key", 99), ("new.translations", 0), ("old.translations", 2)):
        (translations / name).write_bytes(b"x")
        os.utime(translations / name, (NOW - age * UNUSED_S,) * 2)
    (translations / ".unfinished-2").touch()
    return store


def test_everything_is_listed_but_the_lock_and_the_key(store: Store) -> None:
    assert [item.name for item in items(store, NOW)] == [
        "apt/trixie", "bench/debian", "kernels/trixie/.unfinished-1", "kernels/trixie/damaged",
        "kernels/trixie/whole", "translations/.unfinished-2", "translations/new.translations",
        "translations/old.translations",
    ]  # fmt: skip


def test_what_no_run_needs(store: Store) -> None:
    unneeded = {item.name: item.unneeded for item in items(store, NOW) if item.unneeded}

    assert set(unneeded) == {
        "apt/trixie", "kernels/trixie/.unfinished-1", "kernels/trixie/damaged",
        "translations/.unfinished-2", "translations/old.translations",
    }  # fmt: skip
    assert unneeded["translations/old.translations"] == "was not used for 30 days"


def test_sizes_are_those_on_the_disk(store: Store) -> None:
    size = {item.name: item.size for item in items(store, NOW)}

    assert size["kernels/trixie/whole"] >= 6000
    assert size["apt/trixie"] >= 5000


def test_what_is_removed_is_gone_and_the_rest_is_there(store: Store) -> None:
    unwanted = [item for item in items(store, NOW) if item.unneeded]
    freed = remove(store, unwanted)

    assert freed == sum(item.size for item in unwanted) > 0
    assert [item.name for item in items(store, NOW)] == [
        "bench/debian", "kernels/trixie/whole", "translations/new.translations",
    ]  # fmt: skip
    assert not (store.root / "apt").exists()


def test_a_link_is_removed_and_what_it_leads_to_stays(store: Store, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/file").touch()
    (store.root / "kernels/trixie/link").symlink_to(tmp_path / "mine")
    remove(store, [item for item in items(store) if item.name.endswith("link")])

    assert (tmp_path / "mine/file").exists()
    assert not (store.root / "kernels/trixie/link").exists()


def test_a_cache_that_is_not_there(tmp_path: Path) -> None:
    assert items(Store(tmp_path / "none"), time.time()) == []
    assert usage.remove(Store(tmp_path / "none"), []) == 0


def make_image(store: Store, name: str, kind: str, source: str = "") -> None:
    with Images(store).adding(name, kind) as draft:
        draft.disk.write_bytes(b"x" * 5000)
        draft.source = source


@pytest.fixture
def images(tmp_path: Path) -> Store:
    """A store with images that a run makes again, and one that nothing makes again."""
    store = Store(tmp_path / "ringlet")
    make_image(store, "debian", "debian")
    make_image(store, "alpine:3", "oci", "docker://alpine:3")
    make_image(store, "mine", "tar", "/tmp/root.tar")
    return store


def test_no_image_is_unneeded(images: Store) -> None:
    assert {item.name: (item.unneeded, item.kept) for item in items(images)} == {
        "images/alpine%3A3": ("", ""),
        "images/debian": ("", ""),
        "images/mine": ("", "imported; `ringlet image rm mine` removes it"),
    }


def test_an_image_of_a_registry_by_another_name_stays(images: Store) -> None:
    make_image(images, "tool", "oci", "docker://alpine:3")

    assert {item.name for item in items(images) if item.kept} == {"images/mine", "images/tool"}


def test_an_import_stays_whatever_is_removed(images: Store) -> None:
    remove(images, items(images))

    assert [image.name for image in Images(images).list()] == ["mine"]


def test_an_image_in_use_stays(images: Store) -> None:
    image = Images(images).find("debian")
    assert image is not None
    with image.used():
        kept = {item.name: item.kept for item in items(images) if item.kept}

    assert kept["images/debian"] == "a running machine uses it"
    assert not image.in_use()


def test_damaged_images(images: Store) -> None:
    for name in ("debian", "mine"):
        (images.root / "images" / name / "image.json").write_text("{")
    found = {item.name: (item.unneeded, item.kept) for item in items(images)}

    assert found["images/debian"] == ("is damaged, so a run would build it", "")
    assert found["images/mine"] == ("", "is damaged; `ringlet image rm mine` removes it")


def test_what_is_among_the_images_and_is_none(images: Store) -> None:
    (images.root / "images/empty").mkdir()
    (images.root / "images/a b").mkdir()

    assert [item.name for item in items(images) if item.unneeded == "belongs to no entry"] == [
        "images/a b", "images/empty",
    ]  # fmt: skip


def test_what_another_process_makes_is_not_left_over(images: Store) -> None:
    for name in (".unfinished-1", ".removed-1-2"):
        (images.root / "images" / name).mkdir()
    left = [item.name for item in items(images) if "killed" in item.unneeded]
    assert left == ["images/.removed-1-2", "images/.unfinished-1"]

    with images.locked():
        assert images.busy()
        found = {item.name: item for item in items(images, busy=images.busy())}

    assert not images.busy()
    assert all(not found[name].unneeded for name in left)
    assert {found[name].kept for name in left} == {"another process is making it"}
