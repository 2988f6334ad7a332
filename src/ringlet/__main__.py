"""The entry point of the command `ringlet`, for `python -m ringlet` and for pip's script."""

import signal
import sys

# Python answers Ctrl-C with a traceback.  Nothing needs to be undone until `stoppable` begins.
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def command() -> int:
    """Run the command line as this process and return its exit status."""
    from ringlet.cli.main import command

    return command()


if __name__ == "__main__":
    sys.exit(command())
