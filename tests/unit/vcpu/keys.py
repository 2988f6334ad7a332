"""The parts of a translation's key, and programs that are entered under different keys."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, replace

from ringlet.core.control_bits import Cr0, Cr4
from ringlet.core.state import Exit
from tests.unit.vcpu.board import CODE, DATA, HANDLERS, HLT, IDT, STACK, TF, Board

TARGET = DATA + 0x8000
"""Address of the code that is entered; a page begins there."""

GDT = 0xA000
CELL = DATA
"""Address of a pointer to `TARGET`: near, or far with a selector after it."""

TABLE = DATA + 0x1000
SOFTWARE = 31
"""The vector whose handler returns at once."""

CR0, CR4, XCR0 = 0x80050033, 0x406A8, 7

_CODE = {
    (64, 0): 0x08, (32, 3): 0x1B, (64, 3): 0x2B, (64, 1): 0x31, (64, 2): 0x42, (32, 0): 0x50,
    (16, 0): 0x58,
}  # fmt: skip
_DATA = {0: 0x10, 3: 0x23, 1: 0x39, 2: 0x4A}
_RIGHTS = {64: 0xA09B, 32: 0xC09B, 16: 0x809B}


@dataclass(frozen=True)
class Setting:
    """The parts of the processor's state that determine a key."""

    cpl: int = 0
    bits: int = 64
    cr0: int = CR0
    cr4: int = CR4
    xcr0: int = XCR0
    flags: int = 2
    dr7: int = 0x400

    @property
    def code(self) -> int:
        """Return the selector of the code segment."""
        return _CODE[self.bits, self.cpl]

    @property
    def data(self) -> int:
        """Return the selector of the stack segment."""
        return _DATA[self.cpl]

    def apply(self, board: Board, rip: int) -> None:
        """Put the processor into this state, as a debugger that sets registers does."""
        p = board.p
        p.set_segment(1, self.code, 0, 0xFFFFFFFF, _RIGHTS[self.bits] | self.cpl << 5)
        for i in (0, 2, 3, 4, 5):
            p.set_segment(i, self.data, 0, 0xFFFFFFFF, 0xC093 | self.cpl << 5)
        board.set(cpl=self.cpl, cr0=self.cr0, cr4=self.cr4, xcr0=self.xcr0, rflags=self.flags)
        board.set(dr0=TARGET, dr6=0xFFFF0FF0, dr7=self.dr7, rip=rip, rsp=STACK)


PLAIN = Setting()
USER = Setting(cpl=3)


@dataclass(frozen=True)
class Change:
    """Two settings, and an instruction whose effect differs between them."""

    first: Setting
    then: Setting
    probe: str

    def turned(self) -> Change:
        """Return the same change in the other direction."""
        return Change(self.then, self.first, self.probe)


SSE, AVX, NOP, CLI = "0F28C0", "C5F877", "90", "FA"  # movaps xmm0, xmm0; vzeroupper
LENGTH = "48B8" + "F4" * 8
"""MOV RAX, imm64; in other code DEC and a shorter MOV, behind which HLT follows sooner."""
_FORWARD = {
    "ts": Change(PLAIN, replace(PLAIN, cr0=CR0 | Cr0.CR0_TS), SSE),
    "user_ts": Change(USER, replace(USER, cr0=CR0 | Cr0.CR0_TS), SSE),
    "em": Change(PLAIN, replace(PLAIN, cr0=CR0 & ~Cr0.CR0_MP | Cr0.CR0_EM), SSE),
    "em_ts": Change(
        replace(PLAIN, cr0=CR0 | Cr0.CR0_TS), replace(PLAIN, cr0=CR0 | Cr0.CR0_EM), SSE
    ),
    "osfxsr": Change(PLAIN, replace(PLAIN, cr4=CR4 & ~Cr4.CR4_OSFXSR), SSE),
    "user_osfxsr": Change(USER, replace(USER, cr4=CR4 & ~Cr4.CR4_OSFXSR), SSE),
    "osxsave": Change(PLAIN, replace(PLAIN, cr4=CR4 & ~Cr4.CR4_OSXSAVE), AVX),
    "xcr0": Change(PLAIN, replace(PLAIN, xcr0=3), AVX),
    "cpl1": Change(PLAIN, replace(PLAIN, cpl=1), CLI),
    "cpl2": Change(PLAIN, replace(PLAIN, cpl=2), CLI),
    "cpl3": Change(PLAIN, USER, CLI),
    "tf": Change(PLAIN, replace(PLAIN, flags=2 | TF), NOP),
    "user_tf": Change(USER, replace(USER, flags=2 | TF), NOP),
    "dr7": Change(PLAIN, replace(PLAIN, dr7=0x401), NOP),
    "bits32": Change(PLAIN, replace(PLAIN, bits=32), LENGTH),
    "bits16": Change(PLAIN, replace(PLAIN, bits=16), LENGTH),
    "user_bits32": Change(USER, replace(USER, bits=32), LENGTH),
}
CHANGES = _FORWARD | {f"{name}_back": change.turned() for name, change in _FORWARD.items()}


@dataclass(frozen=True)
class Way:
    """Code that leads to `TARGET`, and where it stands.

    `before` gives the setting it runs under when the target is to be entered under another; None:
    this way does not lead there.
    """

    code: str
    at: int = CODE
    before: Callable[[Setting], Setting | None] = lambda s: s if s.bits == 64 else None


def branch(opcode: str, at: int, target: int) -> str:
    """Return a branch with a 32-bit distance, at `at`."""
    return opcode + struct.pack("<i", target - (at + len(opcode) // 2 + 4)).hex()


def jump(at: int, target: int) -> str:
    """Return a JMP from one address to another."""
    return branch("E9", at, target)


def _from_kernel(s: Setting) -> Setting:
    return replace(s, cpl=0, bits=64, flags=2)


def _from_64_bits(s: Setting) -> Setting:
    return replace(s, bits=64)


def _before_sysret(bits: int) -> Callable[[Setting], Setting | None]:
    return lambda s: _from_kernel(s) if (s.cpl, s.bits) == (3, bits) else None


NEAR = TARGET + 0x100
WRITTEN = TARGET + 0x200
WAYS = {
    "direct_jump": Way(branch("E9", NEAR, TARGET), NEAR),
    "conditional_jump": Way("31C0" + branch("0F84", NEAR + 2, TARGET), NEAR),
    "direct_jump_across_a_page": Way(branch("E9", CODE, TARGET)),
    "direct_call": Way(branch("E8", CODE, TARGET)),
    "indirect_jump": Way("FFE2"),  # jmp rdx
    "indirect_call": Way("FFD2"),
    "jump_by_memory": Way("FF27"),  # jmp [rdi]
    "call_by_memory": Way("FF17"),
    "near_return": Way("52 C3"),  # push rdx; ret
    "falling_through": Way("90", TARGET - 1),
    "interrupt_return": Way(f"CD{SOFTWARE:02X}", TARGET - 2),
    "iret": Way("4150 4151 4152 4153 52 48CF", before=_from_kernel),  # the frame: r8-r11, rdx
    "sysret": Way("4D89D3 4889D1 480F07", before=_before_sysret(64)),  # from r10, rdx
    "sysret_to_32_bits": Way("4D89D3 4889D1 0F07", before=_before_sysret(32)),
    "far_jump": Way("48FF2F", before=_from_64_bits),
    "jump_to_a_written_page": Way("8803 FFE2"),  # mov [rbx], al; jmp rdx
}

_SEGMENTS = ((64, 0), 0, (32, 3), 3, (64, 3), (64, 1), 1, (64, 2), 2, (32, 0), (16, 0))
"""(bits, privilege) of code segments, and privileges of data segments, from selector 8 on."""


def _descriptor(segment: tuple[int, int] | int) -> int:
    if isinstance(segment, int):
        return 0x00CF93000000FFFF | segment << 45
    bits, privilege = segment
    return 0x000F9B000000FFFF | _RIGHTS[bits] >> 12 << 52 | privilege << 45


def keyed_board(way: Way, target: str, *, keep: bool = False) -> Board:
    """Return a board with segments of each privilege, the code of a way, and code at `TARGET`."""
    board = Board(keep=keep)
    board.poke(GDT + 8, *(_descriptor(segment) for segment in _SEGMENTS))
    board.p.set_table("gdtr", GDT, 8 * len(_SEGMENTS) + 7)
    handler = HANDLERS + 16 * SOFTWARE
    board.poke(IDT + 16 * SOFTWARE, handler & 0xFFFF | 8 << 16 | 0xEE << 40 | 1 << 48, 0)
    board.p.write_phys(handler, bytes.fromhex("48CF"))
    board.p.write_phys(way.at, bytes.fromhex(way.code))
    board.p.write_phys(TARGET, bytes.fromhex(target) + HLT)
    board.set(star=0x18 << 48 | 8 << 32)
    return board


def go(board: Board, way: Way, setting: Setting) -> tuple[int, int | None, int]:
    """Lead the processor to `TARGET` under a setting: the exit, the exception, its return address.

    The return address is RIP where there is no exception.
    """
    before = way.before(setting)
    assert before is not None
    board.p.write_phys(CELL, struct.pack("<QH", TARGET, setting.code))
    before.apply(board, way.at)
    board.set(rdx=TARGET, rdi=CELL, rbx=WRITTEN)
    board.set(r8=setting.data, r9=STACK, r10=setting.flags, r11=setting.code)
    return outcome(board, int(board.p.run()))


def outcome(board: Board, kind: int) -> tuple[int, int | None, int]:
    """Return the result of `go` for a run that ended, and check that the key is up to date."""
    key = board.get("key")
    board.set(rip=board.get("rip"))
    assert board.get("key") == key
    vector = board.raised()
    if kind != Exit.EXIT_HLT or vector is None:
        return kind, None, board.get("rip")
    has_error = vector in (8, 10, 11, 12, 13, 14)
    return kind, vector, board.peek(board.get("rsp") + 8 * has_error)
