"""Guests of Ringlet's on a kernel that the user gives: the modules it needs, and their absence."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ringlet.images.busybox import find_busybox
from ringlet.images.debian import CachedKernel
from ringlet.images.modules import BOOT, Modules

PATIENCE = 90
"""Seconds; a guest takes one or two on an idle machine."""

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root file system that has busybox."""
    root = tmp_path_factory.mktemp("root")
    (root / "bin").mkdir()
    shutil.copy(find_busybox(), root / "bin/busybox")
    (root / "bin/sh").symlink_to("busybox")
    return root


def run(kernel: Path, root: Path) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "ringlet", "run", "--kernel", kernel, "--root", root, "sh", "-c",
         "echo up"],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def test_kernel_of_the_cache_has_its_modules(kernel: CachedKernel, root: Path) -> None:
    assert run(kernel.vmlinuz, root) == (0, "up\n", "")


def test_kernel_that_is_installed_has_its_modules(
    kernel: CachedKernel, root: Path, tmp_path: Path
) -> None:
    own = Path(shutil.copy(kernel.vmlinuz, tmp_path))
    modules = Modules(kernel.package, kernel.release)
    directory = tmp_path / "lib/modules" / kernel.release
    for module in modules.order(BOOT):
        (directory / module.path).parent.mkdir(parents=True, exist_ok=True)
        (directory / module.path).write_bytes(modules._content(module.path))
    (directory / "modules.dep").write_bytes(modules._indexes()["modules.dep"])

    assert run(own, root) == (0, "up\n", "")


def test_kernel_without_a_driver_says_which(
    kernel: CachedKernel, root: Path, tmp_path: Path
) -> None:
    own = Path(shutil.copy(kernel.vmlinuz, tmp_path))

    status, out, errors = run(own, root)

    assert (status, out) == (3, "")
    said = "ringlet: the guest says: the kernel has no file system overlay: it must be built in"
    assert errors.startswith(said)
    assert errors.endswith(
        f"or be a module in lib/modules/{kernel.release} beside the kernel's file or in the host's "
        "/lib/modules; or give --package instead of --kernel\n"
    )
