"""`Processor.translate_linear`: the guest physical address of a linear one, in each paging mode.

Source: SDM 3A 4.3 to 4.5.
"""

from __future__ import annotations

from ringlet.vcpu.processor import Processor
from tests.unit.vcpu.board import Board
from tests.unit.vcpu.flat_32 import TABLES, flat_32, put

ACCESSED = 0x20


def test_without_paging_addresses_are_their_own() -> None:
    p = Processor(1 << 20)

    assert p.translate_linear(0x12345) == 0x12345
    assert p.translate_linear(1 << 32) is None


def test_two_levels() -> None:
    p = flat_32()
    put(p, TABLES + 0x1000 + 4 * 5, 0x7007)
    put(p, TABLES + 0x1000 + 4 * 6, 0)
    put(p, TABLES + 8, 0x400083)  # 4 MiB

    assert p.translate_linear(0x5123) == 0x7123
    assert p.translate_linear(0x6123) is None
    assert p.translate_linear(0x800123) == 0x400123
    assert p.translate_linear(1 << 32) is None


def test_pae() -> None:
    p = flat_32()
    put(p, 0x20000, 0x21001, form="Q")
    put(p, 0x21000, 0x22007, 0x200083, form="Q")
    put(p, 0x22000 + 8 * 3, 0x9007, form="Q")
    p.set("cr0", 0x11)
    p.set("cr4", 0x20)
    p.set("cr3", 0x20000)
    p.set("cr0", 0x80000011)

    assert p.translate_linear(0x3456) == 0x9456
    assert p.translate_linear(0x4456) is None
    assert p.translate_linear(0x212345) == 0x212345


def test_long_mode() -> None:
    p = Board().p

    assert p.translate_linear(0x1000) == 0x1000
    assert p.translate_linear(1 << 47) is None


def test_nothing_changes() -> None:
    p = flat_32()

    p.translate_linear(0x5000)

    assert not p.read_phys(TABLES + 0x1000 + 4 * 5, 1)[0] & ACCESSED
