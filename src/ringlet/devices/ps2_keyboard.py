"""A PS/2 keyboard (IBM PS/2 Hardware Interface Technical Reference, "Keyboard").

It answers commands; no keys are ever pressed.
"""

from dataclasses import dataclass, field, replace
from typing import Final

# Commands
SET_LEDS: Final = 0xED
ECHO: Final = 0xEE
SCAN_CODE_SET: Final = 0xF0
IDENTIFY: Final = 0xF2
TYPEMATIC: Final = 0xF3
ENABLE: Final = 0xF4
DISABLE: Final = 0xF5
DEFAULTS: Final = 0xF6
KEY_TYPES: Final = range(0xF7, 0xFE)  # for all keys and single keys; they have no effect
RESEND: Final = 0xFE
RESET: Final = 0xFF

# Answers
ACK: Final = 0xFA
SELF_TEST_PASSED: Final = 0xAA
IDENTITY: Final = (0xAB, 0x83)

QUEUE_SIZE: Final = 16


@dataclass(slots=True)
class Ps2KeyboardState:
    """The current command and the bytes still to be sent."""

    queue: list[int] = field(default_factory=list)
    command: int | None = None  # waits for its parameter
    last: int = 0
    scan_code_set: int = 2
    enabled: bool = True


class Ps2Keyboard:
    """One keyboard, on the byte level of its cable."""

    def __init__(self) -> None:
        self._s = Ps2KeyboardState()

    def send(self, byte: int) -> None:
        """Receive a byte from the host.  A new command cancels the rest of the last answer."""
        s = self._s
        if byte == RESEND:
            s.queue = [s.last, *s.queue][:QUEUE_SIZE]
            return
        command, s.command = s.command, None
        s.queue.clear()
        if command is not None and byte < SET_LEDS:
            self._parameter(command, byte)
            return
        match byte:
            case 0xEE:  # ECHO
                s.queue.append(ECHO)
            case 0xED | 0xF0 | 0xF3:  # commands with a parameter
                s.command = byte
                s.queue.append(ACK)
            case 0xF2:  # IDENTIFY
                s.queue += [ACK, *IDENTITY]
            case 0xF4:  # ENABLE
                s.enabled = True
                s.queue.append(ACK)
            case 0xF5 | 0xF6 | 0xFF:  # DISABLE, DEFAULTS, RESET
                s.scan_code_set = 2
                s.enabled = byte != DISABLE
                s.queue += [ACK, SELF_TEST_PASSED] if byte == RESET else [ACK]
            case _:
                s.queue.append(ACK if byte in KEY_TYPES else RESEND)

    def take(self) -> int | None:
        """Return the next byte for the host, if there is one."""
        s = self._s
        if not s.queue:
            return None
        s.last = s.queue.pop(0)
        return s.last

    def save(self) -> Ps2KeyboardState:
        """Return a copy of the state."""
        return replace(self._s, queue=list(self._s.queue))

    def restore(self, state: Ps2KeyboardState) -> None:
        """Restore `state`."""
        self._s = replace(state, queue=list(state.queue))

    def _parameter(self, command: int, byte: int) -> None:
        s = self._s
        s.queue.append(ACK)
        if command == SCAN_CODE_SET:
            if byte == 0:
                s.queue.append(s.scan_code_set)
            elif byte <= 3:
                s.scan_code_set = byte
            else:
                s.queue[-1] = RESEND
