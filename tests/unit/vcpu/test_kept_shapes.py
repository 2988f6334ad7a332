"""Kept translations whose instructions the shape table does not know."""

from tests.unit.vcpu.board import CODE, DATA, DEVICE_PHYS, PD, PDPT, Board

AGAIN = 1 << 36
"""The same pages in the second slot, which has no window yet."""
LOAD = "8B07 034704"  # mov eax, [rdi]; add eax, [rdi + 4]


def without_shapes(stored: bytes) -> bytes:
    """Return the stored translations without the shapes before them."""
    return bytes(8) + stored[8 + int.from_bytes(stored[:8], "little") :]


def prepared() -> Board:
    board = Board(keep=True)
    board.poke(DATA, 5 | 6 << 32)
    board.poke(PDPT + 8 * (AGAIN >> 30), PD | 7)
    board.set(rdi=AGAIN + DATA)
    return board


def test_window_is_filled_for_an_instruction_of_no_known_shape() -> None:
    first = prepared()
    first.run(LOAD)
    second = prepared()
    second.p.kept.load(without_shapes(first.p.kept.dump()))

    second.run(LOAD)

    assert second.p.counters()["kept_fragments"] >= 1
    assert second.p.counters()["shapes"] >= 1
    assert second.p.counters()["exceptions"] == first.p.counters()["exceptions"]
    assert second.p.get("rax") == first.p.get("rax") == 11


def narrow() -> Board:
    """A processor in 32-bit code without paging, which has a device."""
    board = Board(keep=True)
    board.p.set("efer", 0)
    board.p.set("cr0", 0x11)
    board.p.set_segment(1, 8, 0, 0xFFFFFFFF, 0xC09B)
    board.p.attach_memory(board.device.read, board.device.write)
    board.device.set(0, bytes(range(1, 9)))
    board.set(rbx=DEVICE_PHYS, rax=0)
    return board


def test_device_is_read_by_a_32_bit_instruction_of_no_known_shape() -> None:
    code = "B905000000 0303 8B5304 E2F9"  # mov ecx, 5; add eax, [ebx]; mov edx, [ebx + 4]; loop
    first = narrow()
    first.run(code)
    stored = first.p.kept.dump()
    second, third = narrow(), narrow()
    second.p.kept.load(without_shapes(stored))
    third.p.kept.load(stored)

    second.run(code)
    third.run(code)

    for board in (second, third):
        assert board.p.counters()["kept_fragments"] >= 1
        assert board.registers() == first.registers()
        assert board.get("rdx") == 0x08070605
        assert len(board.device.reads) == len(first.device.reads) == 10
    assert third.p.counters()["shapes"] == first.p.counters()["shapes"]


def test_code_of_32_bits_runs_elsewhere_as_it_was_kept() -> None:
    # call f; loop; hlt; f: add eax, ecx; pop edx; push edx; ret
    code = bytes.fromhex("E803000000 E2F9 F4 01C8 5A 52 C3")
    board = narrow()
    places = (CODE, CODE + 0x3000)
    for place in places:
        board.p.write_phys(place, code)
    ends, made = [], []
    for place in places:
        board.set(rip=place, rcx=5, rax=0, rflags=2)
        board.p.run()
        ends.append(board.registers())
        made.append(board.p.counters()["fragments"])

    moved = {"rip": places[1] - CODE, "rdx": places[1] - CODE}
    assert ends[0]["rax"] == 15
    assert ends[0]["rdx"] == CODE + 5
    assert ends[1] == {name: value + moved.get(name, 0) for name, value in ends[0].items()}
    assert board.p.counters()["kept_fragments"] >= 2
    assert made[0] == made[1]
