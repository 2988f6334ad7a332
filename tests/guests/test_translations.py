"""A second boot of a kernel reuses its translations; guests run whatever happens to the file."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ringlet.images.debian import CachedKernel
from ringlet.images.store import default_root

PATIENCE = 90

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory, kernel: CachedKernel) -> Path:
    """A cache directory with kernels, tools, and the translations of one boot."""
    root = tmp_path_factory.mktemp("cache")
    (root / "ringlet").mkdir()
    for kind in ("kernels", "tools", "apt"):
        (root / "ringlet" / kind).symlink_to(default_root() / kind)
    boot(root)
    return root


def boot(cache: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ringlet", "run", "busybox", "--stats", *options, "--",
         "sh", "-c", "echo up; exit 3"],
        env={**os.environ, "XDG_CACHE_HOME": str(cache)},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip


def translated(run: subprocess.CompletedProcess[str]) -> int:
    counter = re.search(r"^fragments +([0-9,]+)", run.stderr, re.MULTILINE)
    assert counter is not None, run.stderr
    return int(counter[1].replace(",", ""))


def file(cache: Path) -> Path:
    (path,) = (cache / "ringlet" / "translations").glob("*.translations")
    return path


def test_second_boot_translates_next_to_nothing(cache: Path) -> None:
    cold, warm = boot(cache, "--cold"), boot(cache)

    assert (warm.returncode, warm.stdout) == (3, "up\n")
    assert translated(cold) > 30_000
    assert translated(warm) < translated(cold) / 20


def test_a_bad_file_is_made_anew(cache: Path) -> None:
    data = bytearray(file(cache).read_bytes())
    data[len(data) // 2] ^= 0x10
    file(cache).write_bytes(data)
    again, warm = boot(cache), boot(cache)

    assert (again.returncode, again.stdout) == (3, "up\n")
    assert "ringlet:" not in again.stderr
    assert translated(again) > 30_000
    assert translated(warm) < 5_000


def test_translations_that_cannot_be_kept_cost_a_line(cache: Path) -> None:
    directory = cache / "ringlet" / "translations"
    file(cache).unlink()
    directory.chmod(0o777)
    run = boot(cache)
    directory.chmod(0o700)

    assert (run.returncode, run.stdout) == (3, "up\n")
    assert run.stderr.count("ringlet: ") == 1
    assert "cannot keep translations" in run.stderr
