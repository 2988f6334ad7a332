"""The processor as seen by programs in a Linux guest: see `tests.guests.selftests`."""

import pytest

from ringlet.direct.support import obstacle
from ringlet.errors import HostError, ImageError
from ringlet.images.debian import fetch_kernel
from tests.guests.selftests.build import archive, build, names
from tests.guests.selftests.runs import Engine, Guest, Run, run

pytestmark = pytest.mark.timeout(300)  # the first test fetches the kernel, where there is none

VSYSCALL = [name for name in names() if name.startswith("vsyscall.")]


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Guest:
    directory = tmp_path_factory.mktemp("selftests")
    try:
        program = build(directory)
        kernel = fetch_kernel().vmlinuz
    except (HostError, ImageError) as error:
        pytest.skip(str(error))
    initrd = directory / "initrd.cpio"
    initrd.write_bytes(archive(program))
    return Guest(kernel, program, initrd)


# Where the host refuses direct processes, `ringlet doctor` says so, and there is nothing to test.
ENGINES = [Engine.TRANSLATED] if obstacle() else [Engine.TRANSLATED, Engine.DIRECT]


@pytest.fixture(scope="module", params=ENGINES)
def verdicts(guest: Guest, request: pytest.FixtureRequest) -> Run:
    return run(request.param, guest, names(), "vsyscall=xonly")


@pytest.mark.parametrize("name", names())
def test_of_the_guest_itself(name: str, verdicts: Run) -> None:
    assert name in verdicts.verdicts, verdicts.complaint
    verdict = verdicts.verdicts[name]
    assert not verdict.failed, verdict.reason


def test_all_came_to_an_end(verdicts: Run) -> None:
    skipped = {name for name, verdict in verdicts.verdicts.items() if verdict.result == "skip"}

    assert (verdicts.complaint, sorted(verdicts.verdicts)) == ("", sorted(names()))
    assert skipped <= {"vsyscall.none", "masked.loads", "masked.stores", "masked.gather",
                       "masked.gather_repaired", "floating.avx_exceptions", "crossing.vectors",
                       "top.data", "top.code", "top.stack", "top.system_call"}  # fmt: skip


def test_without_a_vsyscall_page(guest: Guest) -> None:
    found = run(Engine.RINGLET, guest, VSYSCALL, "vsyscall=none", "vsyscall").verdicts

    assert sorted(found) == sorted(VSYSCALL)
    assert {name: verdict for name, verdict in found.items() if verdict.failed} == {}
