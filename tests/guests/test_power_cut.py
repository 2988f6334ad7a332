"""What a guest has flushed survives the end of Ringlet."""

import shutil
from pathlib import Path

import pytest

from tests.guests.power_cut import cut
from tests.unit.images.archives import NEEDS_E2FSPROGS

pytestmark = [pytest.mark.timeout(600), pytest.mark.usefixtures("kernel"), NEEDS_E2FSPROGS]


@pytest.mark.parametrize("seconds", [0.05, 0.8])
@pytest.mark.parametrize("form", ["raw", "qcow2"])
def test_every_number_that_was_flushed_is_there(tmp_path: Path, form: str, seconds: float) -> None:
    if form == "qcow2" and shutil.which("qemu-img") is None:
        pytest.skip("needs qemu-img (qemu-utils)")
    assert cut(tmp_path, seconds, form) >= 1
