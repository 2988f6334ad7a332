"""The README's programs, run as a user would run them."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

# The first test fetches the kernel, where there is none.
pytestmark = [pytest.mark.timeout(300), pytest.mark.usefixtures("kernel")]
README = Path(__file__).parents[2] / "README.md"
PROGRAMS = re.findall(r"^```python\n(.*?)^```$", README.read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(
    ("number", "printed"),
    [(0, r"^6\.[\w.+-]+-amd64\n\n3 /srv/data\n"), (1, r"^\['3 after \d+ interrupts', '7 after ")],
)
def test_the_readmes_programs(number: int, printed: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAMS[number]], capture_output=True, text=True, timeout=120,
        check=False,
    )  # fmt: skip

    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(printed, done.stdout)
