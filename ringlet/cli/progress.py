"""A line on the terminal that says what takes so long."""

import contextlib
import os
import threading
from types import TracebackType
from typing import Final, Self

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from ringlet.cli.signals import held
from ringlet.devices.uart16550 import Sink

_STDERR: Final = 2


class _OneLine:
    """A spinner with text, cut at the terminal's edge.

    The terminal may be raw, and a second line would begin where the first has ended.
    """

    def __init__(self, text: str) -> None:
        self.spinner = Spinner("dots", Text(text))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from console.render(
            self.spinner, options.update(no_wrap=True, overflow="ellipsis", height=1)
        )


class Progress:
    """The line, from entry to `end` or exit; where standard error is no terminal, nothing at all.

    While it is shown nobody else may write to the terminal.
    """

    def __init__(self, text: str = "") -> None:
        self._line = _OneLine(text)
        self._live: Live | None = None
        self._changes = threading.Lock()

    def __enter__(self) -> Self:
        if os.isatty(_STDERR):
            self._live = Live(
                self._line,
                console=Console(stderr=True),
                refresh_per_second=12.5,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            with held(), contextlib.suppress(OSError):  # the terminal is gone
                self._live.start(refresh=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.end()

    def update(self, text: str) -> None:
        """Say something else."""
        self._line.spinner.update(text=Text(text))

    def end(self) -> None:
        """Take the line away for good; any thread may."""
        if self._live is None:
            return
        here = threading.current_thread() is threading.main_thread()
        with held() if here else contextlib.nullcontext(), self._changes:
            live, self._live = self._live, None
            if live is not None:
                with contextlib.suppress(OSError):
                    live.stop()

    def before(self, sink: Sink) -> Sink:
        """Return a sink that takes the line away and then does what `sink` does."""
        if self._live is None:
            return sink

        def pass_on(data: bytes) -> None:
            self.end()
            sink(data)

        return pass_on
