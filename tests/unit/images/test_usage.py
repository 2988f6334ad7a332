"""What the cache keeps, and what of it no run needs."""

import os
import time
from pathlib import Path

import pytest

from ringlet.images import usage
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
