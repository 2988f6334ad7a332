"""Lets a guest turn itself off: its agent tells its init, or else its power button is pressed.

Without an agent that answers, a guest can turn itself off only if something there heeds the button:
systemd-logind or acpid, with the kernel's driver.  The driver enables the button's event, by which
it is known here.
"""

import threading
import time
from collections.abc import Callable
from typing import Final

from ringlet.control.board import Board

ASK_AGAIN_S: Final = 2.0
"""An init that is still starting may not hear it."""


def turn_off(
    board: Board, ask: Callable[[float], bool], ended: threading.Event, end: float
) -> None:
    """Ask the guest of `board` until `ended`, or `end`, a time of the monotonic clock.

    `ask` has seconds for asking the agent, and returns whether the agent has answered.  Returns at
    once if there is nothing in the guest to ask.
    """
    answered = False
    while not ended.is_set() and (left := end - time.monotonic()) > 0:
        if ask(min(left, ASK_AGAIN_S)):
            answered = True
        elif not answered and not board.press_power_button():
            return
        # Otherwise the guest has ended its agent on the way, or its button is pressed.
        ended.wait(min(ASK_AGAIN_S, max(0.0, end - time.monotonic())))
