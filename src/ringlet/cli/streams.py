"""The standard streams of the process: keeps them open, flushes them, reports their errors."""

import contextlib
import errno
import os
import sys

from ringlet.errors import OutputError, ReaderGoneError


def claim_standard_streams() -> None:
    """Keep other files from getting the descriptors 0 to 2.

    If the process starts with one of them closed, the next file that it opens, perhaps guest RAM,
    gets that number, and the guest's output would be written there.  This function opens
    /dev/null on each closed descriptor, in the wrong direction, so that using it still fails.
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
    """Print a line on standard output and flush it.  Raises OutputError."""
    if sys.stdout is None:
        raise OutputError("standard output is closed")
    try:
        print(text, flush=True)
    except OSError as error:
        abandon_stdout()
        if error.errno == errno.EPIPE:
            raise ReaderGoneError("standard output was closed by its reader") from error
        raise OutputError(f"cannot write standard output: {error.strerror}") from error


def complain(message: str) -> None:
    """Print `ringlet: message` on standard error, as one line of printable characters."""
    line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in f"ringlet: {message}")
    if sys.stderr is not None:
        with contextlib.suppress(OSError, ValueError):
            print(line, file=sys.stderr, flush=True)


def at_once(path: str, flags: int) -> int:
    """Open `path` as an opener of `open`, and refuse a FIFO that nothing reads.  Raises OSError.

    The host would wait for the FIFO's reader, without a word.
    """
    try:
        fd = os.open(path, flags | os.O_NONBLOCK, 0o666)
    except OSError as error:
        if error.errno == errno.ENXIO:
            raise OSError(error.errno, "nothing reads this FIFO", path) from None
        raise
    os.set_blocking(fd, True)
    return fd


def abandon_stdout() -> None:
    """Discard pending output, so that the interpreter does not try to write it when it exits."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno() if sys.stdout is not None else 1)
    os.close(null)
