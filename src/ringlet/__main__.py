"""The command `ringlet`: for `python -m ringlet`, and for the script that pip installs."""

import signal
import sys

# Python's own answer to Ctrl-C is a traceback.  Until `stoppable` there is nothing to undo.
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def command() -> int:
    """Run the command line as this process; return its exit status."""
    from ringlet.cli.main import command

    return command()


if __name__ == "__main__":
    sys.exit(command())
