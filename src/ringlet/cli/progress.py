"""A line on the terminal that shows the current step of a long operation."""

import contextlib
import os
import threading
from typing import TYPE_CHECKING, Final, Self

from ringlet.cli.signals import held
from ringlet.cli.slow_steps import SlowSteps
from ringlet.devices.uart16550 import Sink

if TYPE_CHECKING:
    from ringlet.cli.spinner import SpinningLine

_STDERR: Final = 2


class Progress:
    """The progress line, shown from entry to `end` or exit.

    If standard error is not a terminal, only steps that take seconds are told, each in a line of
    its own.  While the line is shown, nothing else may write to the terminal.
    """

    def __init__(self, text: str = "") -> None:
        self._text = text
        self._line: SpinningLine | None = None
        self._steps: SlowSteps | None = None
        self._changes = threading.Lock()

    def __enter__(self) -> Self:
        if os.isatty(_STDERR):
            from ringlet.cli.spinner import SpinningLine

            self._line = SpinningLine(self._text)
            with held(), contextlib.suppress(OSError):  # the terminal is gone
                self._line.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def update(self, text: str) -> None:
        """Replace the text."""
        line = self._line
        if line is not None:
            line.update(text)

    def step(self, text: str) -> None:
        """Replace the text by a step that may take long, such as fetching something."""
        self.update(text)
        if self._line is None:
            if self._steps is None:
                self._steps = SlowSteps()
            self._steps.step(text)

    def end_steps(self) -> None:
        """Tell that what takes long is over.  Without a terminal, nothing more is said."""
        steps, self._steps = self._steps, None
        if steps is not None:
            steps.end()

    def end(self) -> None:
        """Remove the line for good.  Any thread may call this."""
        self.end_steps()
        if self._line is None:
            return
        here = threading.current_thread() is threading.main_thread()
        with held() if here else contextlib.nullcontext(), self._changes:
            line, self._line = self._line, None
            if line is not None:
                with contextlib.suppress(OSError):
                    line.stop()

    def before(self, sink: Sink) -> Sink:
        """Return a sink that removes the line and then passes its data to `sink`."""
        if self._line is None:
            return sink

        def pass_on(data: bytes) -> None:
            self.end()
            sink(data)

        return pass_on
