"""The process's own streams: present, flushed, and their errors told in a line."""

import contextlib
import os
import sys

from ringlet.errors import OutputError


def claim_standard_streams() -> None:
    """Keep descriptors 0 to 2 from being given to something else.

    If the process was started with one of them closed, the next file opened, guest RAM perhaps,
    would get its number, and the guest's output would be written there.  A closed one becomes
    /dev/null, opened the wrong way round, so that its use still fails.
    """
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            opened = os.open(os.devnull, os.O_WRONLY if fd == 0 else os.O_RDONLY)
            if opened != fd:
                os.dup2(opened, fd)
                os.close(opened)


def emit(text: str) -> None:
    """Print a line on standard output at once.  Raises OutputError."""
    if sys.stdout is None:
        raise OutputError("standard output is closed")
    try:
        print(text, flush=True)
    except OSError as error:
        abandon_stdout()
        raise OutputError(f"cannot write standard output: {error.strerror}") from error


def complain(message: str) -> None:
    """Print `ringlet: message` on standard error, as one line of printable characters."""
    line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in f"ringlet: {message}")
    if sys.stderr is not None:
        with contextlib.suppress(OSError, ValueError):
            print(line, file=sys.stderr, flush=True)


def abandon_stdout() -> None:
    """Give up on standard output, so that the interpreter does not try again when it ends."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno() if sys.stdout is not None else 1)
    os.close(null)
