"""The host's limit of mappings, reached before the count because other code made mappings."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
SCRIPT = f"import sys; sys.path.append({str(ROOT)!r})" + """
import ctypes
from tests.unit.mmu.guest import MIB, OK, PAGE, Guest, P, U, W

AT = 0x0000_1234_5678_9000
guest = Guest(64 * MIB)
old = guest.tables
for i in range(300):
    old.map(AT + i * PAGE, 16 * MIB + i * 2 * PAGE)
    assert guest.reach(AT + i * PAGE) == OK
new = guest.new_tables()
for i in range(2000):
    new.map(AT + i * PAGE, 16 * MIB + i * 2 * PAGE)
    guest.probe.write_phys(16 * MIB + i * 2 * PAGE, i.to_bytes(8, "little"))
guest.probe.load_cr3(new.root)

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
size = 70000 * 2 * PAGE
area = libc.mmap(None, ctypes.c_size_t(size), 0, 0x4022, -1, ctypes.c_long(0))
taken = 0
while libc.mprotect(ctypes.c_void_p(area + taken * 2 * PAGE), PAGE, 1) == 0:
    taken += 1
for i in range(100):
    assert libc.munmap(ctypes.c_void_p(area + (taken - 1 - i) * 2 * PAGE), 2 * PAGE) == 0
seen = [guest.load(AT + i * PAGE) for i in range(2000)]
libc.munmap(ctypes.c_void_p(area), ctypes.c_size_t(size))
assert taken > 20000
assert seen == [i.to_bytes(8, "little") for i in range(2000)]
"""


def test_guest_goes_on_when_the_host_has_no_mapping_left() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=120, check=False
    )

    assert (done.returncode, done.stderr) == (0, "")
