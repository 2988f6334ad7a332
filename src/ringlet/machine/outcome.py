"""The end of a run, as a value and not an exception."""

from dataclasses import dataclass
from enum import Enum
from typing import Final

STATUS_TRIPLE_FAULT: Final = 3
STATUS_RESET: Final = 3
STATUS_HALTED: Final = 4
STATUS_BEYOND: Final = 5
STATUS_DIFFERS: Final = 6
STATUS_FAILED: Final = 70
STATUS_TIMEOUT: Final = 124
"""As timeout(1) has it."""


class EndKind(Enum):
    """The reasons for the end of a run."""

    DEBUG_EXIT = "the guest wrote to the debug exit port"
    TRIPLE_FAULT = "the guest's processor shut down"
    HALTED = "the guest halted and nothing can wake it"
    BEYOND = "the guest would run code that Ringlet cannot run"
    STOPPED = "the host stopped the guest"
    POWER_OFF = "the guest turned the machine off"
    RESET = "the guest reset the machine"
    PANIC = "the guest's kernel panicked"
    TIMEOUT = "the guest took longer than it was given"
    FAILED = "Ringlet itself failed"
    DIFFERS = "the guest differed from the reference"


@dataclass(frozen=True, slots=True)
class End:
    """The end of a run: the exit status of the process and an optional line for the user."""

    kind: EndKind
    status: int
    message: str = ""


def debug_exit(status: int) -> End:
    """Return the end of a guest that wrote `status` to the debug exit port."""
    return End(EndKind.DEBUG_EXIT, status)


def triple_fault(place: str, why: str = "") -> End:
    """Return the end of a guest that shut down at `place` because of the exceptions in `why`."""
    what = f"triple fault: the guest's processor shut down at {place}"
    return End(EndKind.TRIPLE_FAULT, STATUS_TRIPLE_FAULT, f"{what}: {why}" if why else what)


def halted(place: str, why: str) -> End:
    """Return the end of a guest that halted and cannot be woken, because of `why`."""
    return End(
        EndKind.HALTED,
        STATUS_HALTED,
        f"the guest halted at {place} and nothing can wake it: {why}",
    )


def beyond(place: str, why: str) -> End:
    """Return the end of a guest at code that a real processor could run, but Ringlet cannot."""
    return End(EndKind.BEYOND, STATUS_BEYOND, f"the guest cannot go on at {place}: {why}")


def differs(what: str) -> End:
    """Return the end of a guest that differed from the reference processor."""
    return End(EndKind.DIFFERS, STATUS_DIFFERS, what)


def powered_off() -> End:
    """Return the end of a guest that entered the soft-off state."""
    return End(EndKind.POWER_OFF, 0)


def reset() -> End:
    """Return the end of a guest that reset its machine, which may then be started again."""
    return End(EndKind.RESET, STATUS_RESET, "the guest reset its machine")


def panicked(why: str) -> End:
    """Return the end of a guest whose kernel panicked because of `why` and reset the machine."""
    return End(EndKind.PANIC, STATUS_RESET, f"the guest's kernel panicked: {why}")


def halted_by_command() -> End:
    """Return the end of a guest that was told to halt, which leaves a PC's power on."""
    return End(
        EndKind.HALTED,
        STATUS_HALTED,
        "the guest halted, which leaves its power on; poweroff ends a machine with status 0",
    )


def timed_out(seconds: float) -> End:
    """Return the end of a run that took longer than `seconds`."""
    return End(EndKind.TIMEOUT, STATUS_TIMEOUT, f"the guest was still running after {seconds:g} s")


def quit_by_user() -> End:
    """Return the end of a run that its user ended."""
    return End(EndKind.STOPPED, 0)


def failed() -> End:
    """Return the end of a run that goes on to raise an InternalError."""
    return End(EndKind.FAILED, STATUS_FAILED)


def stopped(signal_number: int) -> End:
    """Return the end of a run that signal `signal_number` stopped."""
    return End(EndKind.STOPPED, 128 + signal_number)
