"""The long runs exit with an error when they must."""

from tests.guests import stress
from tests.guests.selftests.build import names
from tests.guests.selftests.runs import Verdict, parse

PASSED = "".join(f"{name} passed\r\n" for name in stress.STRESSORS)


def test_stress_that_went_well_has_no_complaints() -> None:
    assert stress.complaints(PASSED + "end of all\r\n") == []


def test_stressor_that_failed_is_a_complaint() -> None:
    output = PASSED.replace("vm passed", "vm failed") + "end of all\n"
    assert stress.complaints(output) == ["vm did not pass"]


def test_kernels_log_is_a_complaint() -> None:
    line = "kernel log: [    1.0] WARNING: CPU: 0 PID: 1"
    assert stress.complaints(f"{PASSED}{line}\nend of all\n") == [line]


def test_guest_that_hangs_is_a_complaint() -> None:
    assert stress.complaints(PASSED) == ["the guest did not come to its end"]


def test_verdicts_are_read() -> None:
    output = (
        b"noise\r\na.b: ok\r\nc.d: FAIL why: not\r\ne.f: skip none here\r\n[ 1.0] x.y: okay\r\n"
    )
    assert parse(output) == {
        "a.b": Verdict("ok"),
        "c.d": Verdict("FAIL", "why: not"),
        "e.f": Verdict("skip", "none here"),
    }


def test_names_of_tests_are_unlike() -> None:
    assert len(set(names())) == len(names()) > 100
