"""The processor as a program in a Linux guest finds it: see `tests.guests.selftests`."""

import pytest

from ringlet.errors import HostError, ImageError
from ringlet.images.debian import fetch_kernel
from tests.guests.selftests.build import archive, build, names
from tests.guests.selftests.runs import Engine, Guest, Run, run

pytestmark = pytest.mark.timeout(300)  # the first test fetches the kernel, where there is none


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory: pytest.TempPathFactory) -> Run:
    directory = tmp_path_factory.mktemp("selftests")
    try:
        program = build(directory)
        kernel = fetch_kernel().vmlinuz
    except (HostError, ImageError) as error:
        pytest.skip(str(error))
    guest = Guest(kernel, program, directory / "initrd.cpio")
    guest.initrd.write_bytes(archive(program))
    return run(Engine.RINGLET, guest, names(), "vsyscall=xonly")


@pytest.mark.parametrize("name", names())
def test_of_the_guest_itself(name: str, verdicts: Run) -> None:
    assert name in verdicts.verdicts, verdicts.complaint
    verdict = verdicts.verdicts[name]
    assert not verdict.failed, verdict.reason


def test_every_verdict_is_expected(verdicts: Run) -> None:
    assert (verdicts.complaint, sorted(verdicts.verdicts)) == ("", sorted(names()))
