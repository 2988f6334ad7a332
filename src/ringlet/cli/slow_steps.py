"""Lines on standard error about steps that take long, for those who have no terminal."""

import threading
from typing import Final

from ringlet.cli.streams import complain

FIRST_S: Final = 3.0
"""Seconds without a word: what is quicker, or fails at once, is not told."""
AGAIN_S: Final = 10.0


class SlowSteps:
    """Tells the current step after `first` seconds, and then each `again` seconds if it changed."""

    def __init__(self, first: float = FIRST_S, again: float = AGAIN_S) -> None:
        self._text = ""
        self._first = first
        self._again = again
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._tell, name="ringlet-steps", daemon=True)

    def step(self, text: str) -> None:
        """Replace the current step."""
        begins, self._text = not self._text, text
        if begins:
            self._thread.start()

    def end(self) -> None:
        """Tell nothing more."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()

    def _tell(self) -> None:
        told, pause = "", self._first
        while not self._over.wait(pause):
            pause = self._again
            if self._text != told:
                told = self._text
                complain(told)
