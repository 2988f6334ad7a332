"""A kernel of a few instructions, entered by Linux's 64-bit boot protocol on the real processor."""

import time
from pathlib import Path

import pytest

from ringlet.machine import bare
from ringlet.machine.loading import load_kernel, read_kernel
from ringlet.machine.outcome import EndKind
from ringlet.vcpu.processor import Processor
from tests.unit.machine.kernel_maker import BzImage

# The kernel's status is the number of the first error that it finds.  Without an error it prints
# the command line and the first bytes of the initial RAM disk, and ends with status 5.
KERNEL = bytes.fromhex(
    "b301 8cc8 83f810 7546"  # mov bl,1; mov eax,cs; cmp eax,10h; jne fail
    "8cd8 83f818 753f"  # mov eax,ds; cmp eax,18h; jne fail
    "b303 9c 58 a900020000 7534"  # mov bl,3; pushf; pop rax; test eax,200h; jne fail
    "b304 8b8602020000 3d48647253 7525"  # mov bl,4; mov eax,[rsi+202h]; cmp eax,"HdrS"; jne fail
    "8b8e1c020000 8bbe18020000"  # mov ecx,[rsi+21Ch]; mov edi,[rsi+218h]
    "8bb628020000 baf8030000"  # mov esi,[rsi+228h]; mov edx,3F8h
    "ac 84c0 7403 ee ebf8"  # lodsb; test al,al; jz +3; out dx,al; jmp lodsb
    "89fe f36e"  # mov esi,edi; rep outsb
    "b302"  # mov bl,2
    "88d8 e6f4 f4"  # fail: mov al,bl; out F4h,al; hlt
)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    code = bytes(0x200) + KERNEL
    return BzImage(code=code.ljust(4096, b"\xf4")).write(tmp_path / "vmlinuz")


def test_the_kernel_finds_what_the_protocol_promises(image: Path) -> None:
    memory = 64 << 20
    cpu = Processor(memory)
    load_kernel(cpu, read_kernel(image, memory), command_line="hello ", initrd=b"disk")
    printed = bytearray()
    end = bare.wire(cpu, printed.extend, time.monotonic_ns).machine.run()

    assert (end.kind, end.status) == (EndKind.DEBUG_EXIT, 5)
    assert printed == b"hello disk"
