"""Python's list of the architectural state is complete."""

from ringlet.vcpu.fields import ARCH_FIELDS, ARCH_SIZE

# A segment register is padded by 2 bytes and by 4, a table register by 4, and the whole by 4.
PADDING = 8 * (2 + 4) + 2 * 4 + 4


def covered() -> list[int]:
    return [at for offset, size in ARCH_FIELDS.values() for at in range(offset, offset + size)]


def test_fields_do_not_overlap() -> None:
    assert len(covered()) == len(set(covered()))


def test_every_byte_but_padding_is_a_fields() -> None:
    assert set(covered()) <= set(range(ARCH_SIZE))
    assert ARCH_SIZE - len(covered()) == PADDING
