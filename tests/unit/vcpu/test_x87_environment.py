"""FLDENV and FRSTOR, and that what the guest loads never tells where the host's code is."""

import struct
from pathlib import Path

import pytest

from ringlet.core.state import Exit
from tests.unit.vcpu.board import CODE, DATA, DEVICE, HOLE, Board

ENVIRONMENT, AREA = DATA, DATA + 0x400
FIP, FDP = 0x12345678, 0x9ABCDEF0
LOST = 3
"""How often one round is tried: some hosts set the pointers to 0 when they switch to another
process.  An AMD EPYC does in 1 of 10,000 rounds natively, with three of them on two processors."""
NM, GP, PAGE_FAULT, MF, ALIGNMENT = 7, 13, 14, 16, 17
LOADS = {"66D926": 14, "D926": 28, "66DD26": 94, "DD26": 108}
"""FLDENV and FRSTOR of [rsi] in both sizes, and how many bytes they read."""
STORES = {"66D932": 14, "D932": 28, "66DD32": 94, "DD32": 108}
"""FNSTENV and FNSAVE to [rdx]."""


def saved(board: Board, size: int) -> bytes:
    return bytes(board.p.read_phys(AREA, size))


def environment(size: int, *, fip: int = FIP, fdp: int = FDP, control: int = 0x37F) -> bytes:
    """An environment with an empty stack and, if `size` has room, registers of their own."""
    if size in {14, 94}:
        head = struct.pack("<7H", control, 0, 0xFFFF, fip & 0xFFFF, 0, fdp & 0xFFFF, 0)
    else:
        head = struct.pack("<7I", control, 0, 0xFFFF, fip, 0x123 << 16, fdp, 0)
    return head + bytes(range(1, size - len(head) + 1))


def code_caches() -> set[int]:
    """The host addresses of the code caches of all processors of this process."""
    maps = (line.split(maxsplit=5) for line in Path("/proc/self/maps").read_text().splitlines())
    return {int(span.split("-")[0], 16) for span, rights, *_, name in maps
            if "x" in rights and "ringlet-code" in name}  # fmt: skip


def user_board() -> Board:
    board = Board(3)
    board.set(rsi=ENVIRONMENT, rdx=AREA, rcx=DATA + 0x800, rax=7)
    return board


@pytest.fixture
def user() -> Board:
    return user_board()


@pytest.fixture
def placed() -> tuple[Board, range]:
    """A processor, and the host addresses of its first translations."""
    before = code_caches()
    board = user_board()
    (start,) = code_caches() - before
    return board, range(start, start + 0x4000)


def run(board: Board, code: str) -> None:
    """Run to the #GP of HLT at CPL 3."""
    assert board.run(code) == Exit.EXIT_HLT
    assert board.raised() == GP


def pointers(board: Board, store: str) -> tuple[int, int]:
    if STORES[store] in {14, 94}:
        _, _, _, fip, _, fdp, _ = struct.unpack("<7H", saved(board, 14))
    else:
        _, _, _, fip, _, fdp, _ = struct.unpack("<7I", saved(board, 28))
    return fip, fdp


def shown(board: Board, code: str, store: str) -> tuple[int, int]:
    """Run `code` and a store until it shows pointers, or `LOST` times."""
    for _ in range(LOST):
        board.enter(3)
        run(board, code + store)
        if any(found := pointers(board, store)):
            break
    return found


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("load", LOADS)
def test_pointers_come_back(user: Board, load: str, store: str) -> None:
    user.p.write_phys(ENVIRONMENT, environment(LOADS[load]))
    found = shown(user, load, store)

    narrow = 14 in {LOADS[load] % 80, STORES[store] % 80}
    kept = 0xFFFF if narrow else 0xFFFFFFFF
    assert found == (FIP & kept, FDP & kept)


@pytest.mark.parametrize("load", LOADS)
def test_64_bit_image_has_what_the_environment_loaded(user: Board, load: str) -> None:
    user.p.write_phys(ENVIRONMENT, environment(LOADS[load]))
    for _ in range(LOST):
        user.enter(3)
        run(user, load + "480FAE02")  # fxsave64 [rdx]
        if any(found := struct.unpack("<QQ", saved(user, 24)[8:])):
            break

    kept = 0xFFFF if LOADS[load] in {14, 94} else 0xFFFFFFFF
    assert found == (FIP & kept, FDP & kept)


@pytest.mark.parametrize(("load", "store"), [("66DD26", "66DD32"), ("DD26", "DD32")])
def test_registers_are_loaded(user: Board, load: str, store: str) -> None:
    image = environment(LOADS[load])
    user.p.write_phys(ENVIRONMENT, image)
    run(user, load + store)
    assert saved(user, LOADS[load])[-80:] == image[-80:]


@pytest.mark.parametrize("load", ["D926", "DD26", "480FAE0E"])
def test_address_in_the_code_cache_is_a_number_like_others(
    placed: tuple[Board, range], load: str
) -> None:
    """Were one translated, code at CPL 3 could search for the cache."""
    user, addresses = placed
    run(user, "DBE3D9E8" + "D932")  # fninit; fld1; fnstenv [rdx]
    for address in addresses[::61]:
        if load == "480FAE0E":
            image = bytearray(512)
            struct.pack_into("<HHHHQQI", image, 0, 0x37F, 0, 0, 0, address, address, 0x1F80)
            user.p.write_phys(ENVIRONMENT, bytes(image))
        else:
            user.p.write_phys(ENVIRONMENT, environment(LOADS[load], fip=address, fdp=address))
        assert shown(user, load, "D932") == (address, address)


def test_pointer_that_was_loaded_is_not_taken_for_one_of_the_host(
    placed: tuple[Board, range],
) -> None:
    """An x87 instruction whose translation is at the address that was loaded has its own pointer.

    Otherwise, code at CPL 3 could tell which address that is.
    """
    user, addresses = placed
    image = bytearray(512)
    found = set()
    for address in addresses:
        struct.pack_into("<HHHHQQI", image, 0, 0x37F, 0, 0, 0, address, 0, 0x1F80)
        user.p.write_phys(ENVIRONMENT, bytes(image))
        found.add(shown(user, "480FAE0E" + "D9E8", "D932")[0])  # fxrstor64 [rsi]; fld1
    assert found == {CODE + 4}


@pytest.mark.parametrize("load", LOADS)
def test_unmasked_exception_waits_for_the_next_instruction(user: Board, load: str) -> None:
    image = bytearray(environment(LOADS[load], control=0x37B))
    struct.pack_into("<H", image, 2 if LOADS[load] in {14, 94} else 4, 4)
    user.p.write_phys(ENVIRONMENT, bytes(image))
    assert user.run(load + "90" + "D9E8") == Exit.EXIT_HLT
    assert user.raised() == MF
    user.enter(3)
    assert user.run(load) == Exit.EXIT_HLT
    assert user.raised() == MF, "FLDENV and FRSTOR wait, too"


@pytest.mark.parametrize("load", LOADS)
def test_faults(user: Board, load: str) -> None:
    user.set(rsi=HOLE)
    assert user.run(load) == Exit.EXIT_HLT
    assert user.raised() == PAGE_FAULT
    user.enter(3)
    user.set(rsi=HOLE - LOADS[load] + 1)
    assert user.run(load) == Exit.EXIT_HLT
    assert user.raised() == PAGE_FAULT
    assert user.get("cr2") == HOLE
    user.enter(3)
    user.set(rsi=ENVIRONMENT + 1, rflags=0x40002, cr0=user.get("cr0") | 1 << 18)
    assert user.run(load) == Exit.EXIT_HLT
    assert user.raised() == ALIGNMENT
    user.enter(3)
    user.set(cr0=user.get("cr0") | 8)
    assert user.run(load) == Exit.EXIT_HLT
    assert user.raised() == NM


@pytest.mark.parametrize("load", LOADS)
def test_from_a_device(user: Board, load: str) -> None:
    user.device.set(0, environment(LOADS[load]))
    user.set(rsi=DEVICE)
    assert shown(user, load, "D932")[0] in {FIP, FIP & 0xFFFF}


@pytest.mark.parametrize("operand", [DATA + 0x800, DEVICE])
def test_image_that_python_reads_has_guest_pointers(user: Board, operand: int) -> None:
    user.set(rcx=operand)
    user.p.write_phys(ENVIRONMENT, struct.pack("<H", 0x37B))
    assert user.run("DBE3D92E" + "D9EED9E8" + "DC31") == Exit.EXIT_HLT  # fldcw; fldz; fld1; fdiv
    before = bytes(user.p.get_xsave())
    assert struct.unpack_from("<HQQ", before, 6) == (0x431, CODE + 8, operand)
    user.p.set_xsave(before)
    assert bytes(user.p.get_xsave()) == before
