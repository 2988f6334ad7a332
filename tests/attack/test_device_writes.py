"""A device writes code while it is translated.

A thread of a device may write guest RAM at any time, also a page that is being translated.  What
the translator has decoded is what it must translate, or the guest chooses instructions of the host.
"""

import subprocess
import sys

ESCAPED = 77

PROGRAM = """
import mmap, os, threading
from tests.unit.vcpu.board import CODE, HANDLERS, Board

# mov edi, 77; mov eax, 231 (exit_group), then "and rax, rbx", or in its place "syscall; nop"
CALL = bytes.fromhex("bf4d000000b8e7000000")
PIECES, STEP, FIRST, END = 13, 300, 0x90000, 0xA0000


def page(unit):
    piece = (CALL + unit * 94 + b"\\xf4").ljust(STEP, b"\\xf4")
    return (piece * PIECES).ljust(4096, b"\\xf4")


harmless, hostile = page(bytes.fromhex("4821d8")), page(bytes.fromhex("0f0590"))
board = Board()
board.p.set("lstar", HANDLERS)
fd = next(f for f in range(3, 100) if os.path.lexists(f"/proc/self/fd/{f}")
          and "ringlet-ram" in os.readlink(f"/proc/self/fd/{f}"))
ram = mmap.mmap(os.open(f"/proc/self/fd/{fd}", os.O_RDWR), END)
board.p.write_phys(CODE, CALL + bytes.fromhex("4821d8") * 94 + b"\\xf4")
board.enter(0)
board.p.run()
over = threading.Event()


def device():
    while not over.is_set():
        for contents in (hostile, harmless):
            for at in range(FIRST, END, 4096):
                ram[at : at + 4096] = contents


for at in range(FIRST, END, 4096):
    board.p.write_phys(at, harmless)
threading.Thread(target=device, daemon=True).start()
for turn in range(150):
    for at in range(FIRST, END, 4096):
        board.p.drop_code(at, 4096)
        for piece in range(PIECES):
            board.enter(0)
            board.p.set("rbx", 2**64 - 1)
            board.p.set("rip", at + piece * STEP)
            board.p.run()
over.set()
print("translated", board.p.counters()["fragments"])
"""


def test_what_is_translated_is_what_was_decoded() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=100, check=False
    )

    assert done.returncode == 0, (done.returncode == ESCAPED, done.returncode, done.stderr)
    assert int(done.stdout.split()[1]) > 1000
