"""The progress line drawn by rich, in a module of its own because rich is slow to import."""

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text


class _OneLine:
    """A spinner with text, cut at the terminal's edge.

    In a raw terminal, a second line would begin at the column where the first ended.
    """

    def __init__(self, text: str) -> None:
        self.spinner = Spinner("dots", Text(text))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from console.render(
            self.spinner, options.update(no_wrap=True, overflow="ellipsis", height=1)
        )


class SpinningLine:
    """A progress line on standard error, shown from `start` to `stop`."""

    def __init__(self, text: str) -> None:
        self._line = _OneLine(text)
        self._live = Live(
            self._line,
            console=Console(stderr=True),
            refresh_per_second=12.5,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def start(self) -> None:
        """Show the line."""
        self._live.start(refresh=True)

    def update(self, text: str) -> None:
        """Replace the text."""
        self._line.spinner.update(text=Text(text))

    def stop(self) -> None:
        """Remove the line."""
        self._live.stop()
