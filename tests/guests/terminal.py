"""A command on a terminal of its own."""

import contextlib
import os
import subprocess
import termios

PATIENCE = 60


class Terminal:
    """A session's controlling terminal, and a command on it."""

    def __init__(self, arguments: list[str], environment: dict[str, str]) -> None:
        self.open: tuple[int, ...] = os.openpty()
        self.user, self.fd = self.open
        self.before = termios.tcgetattr(self.fd)
        self.process = subprocess.Popen(
            ["setsid", "--ctty", *arguments], stdin=self.fd, stdout=self.fd, stderr=self.fd,
            env=environment,
        )  # fmt: skip
        self.shown = b""

    def until(self, text: bytes) -> None:
        while text not in self.shown:
            self.shown += os.read(self.user, 4096)

    def ended(self) -> int:
        """Return the exit status; `shown` then has the command's last output."""
        status = self.process.wait(PATIENCE)
        os.set_blocking(self.user, False)
        with contextlib.suppress(OSError):
            while data := os.read(self.user, 4096):
                self.shown += data
        return status

    def hang_up(self) -> None:
        for fd in self.open:
            os.close(fd)
        self.open = ()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.hang_up()
