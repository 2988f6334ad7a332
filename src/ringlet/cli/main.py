"""The command `ringlet`.

Exit status: the guest's own if it gives one; 2 for a user's mistake or a host that lacks
something; 3 for a triple fault or a reset; 4 for a guest that halted for good; 5 for a guest that
would run code that Ringlet cannot run; 6 for a guest that differs in `--compare`; 70 for a defect
of Ringlet; 128 + n if signal n ended the run, with 141, as for SIGPIPE, if the reader of the
output has gone.
"""

import errno
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import ringlet.cli.started  # noqa: F401 - it reads the clock
from ringlet.cli.signals import Stopped, status_of, stoppable
from ringlet.cli.streams import abandon_stdout, claim_standard_streams, complain
from ringlet.errors import ReaderGoneError, RingletError, printable, remedy, unexpected

if TYPE_CHECKING:
    import typer

STATUS_USAGE = 2
STATUS_INTERRUPTED = 130
_OUTPUT = (errno.ENOSPC, errno.EIO)


def command() -> int:
    """Run `main` as a process that signals may end at any moment."""
    with stoppable() as asked:
        try:
            status = main()
        except Exception:
            if not asked.number:
                raise
        if asked.number:
            status = status_of(asked.number)
    return status


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status; every error becomes one line."""
    claim_standard_streams()
    try:
        return _run(arguments)
    except Stopped as stopped:
        return stopped.exit_status
    except RingletError as error:
        if not isinstance(error, ReaderGoneError):
            complain(str(error))
        return error.exit_status
    except KeyboardInterrupt:
        return STATUS_INTERRUPTED
    except OSError as error:
        abandon_stdout()
        if error.errno == errno.EPIPE:
            return ReaderGoneError.exit_status
        advice = f"; {limit}" if (limit := remedy(error)) else ""
        complain(f"{_refused(error)}: {error.strerror or error}{advice}")
        return STATUS_USAGE
    except MemoryError:
        complain("the host has no memory left; give the guest less with --memory")
        return STATUS_USAGE
    except SystemExit:  # typer raises this if the pipe is closed while it prints help
        abandon_stdout()
        return ReaderGoneError.exit_status
    except Exception as error:  # noqa: BLE001 - most likely a defect, which has its own status
        return _unforeseen(error)


def _refused(error: OSError) -> str:
    """Return what could not be used: the file if there is one."""
    if isinstance(error.filename, str | bytes):
        return printable(os.fsdecode(error.filename))
    return "cannot write standard output" if error.errno in _OUTPUT else "the host refused"


def _unforeseen(error: Exception) -> int:
    report = unexpected(error)
    if isinstance(report, RingletError):
        complain(str(report))
    else:
        complain(f"internal error, please report it: {report}")
    return report.exit_status


def _advice(error: "typer.TyperException") -> str:
    context = getattr(error, "ctx", None)
    if context is None:
        return "see ringlet --help"
    advice = f"see {context.command_path} --help"
    if context.info_name == "run" and type(error).__name__ == "NoSuchOption":
        advice += ", and put -- before a command for the guest"
    return advice


def _run(arguments: Sequence[str] | None) -> int:
    # Imported late: such imports take half of the time before a guest starts.
    import typer

    from ringlet.cli.app import make_app

    try:
        status = make_app()(args=arguments, prog_name="ringlet", standalone_mode=False)
    except typer.TyperException as error:
        if not error.format_message():  # the help of a group of commands was shown
            return STATUS_USAGE
        complain(f"{error.format_message().rstrip('.')}; {_advice(error)}")
        return STATUS_USAGE
    except typer.Abort:
        return STATUS_INTERRUPTED
    return status if isinstance(status, int) else 0
