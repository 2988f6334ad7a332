"""The processor model as a table: what is offered, on which host."""

import pytest

from ringlet.arch import cpuid
from ringlet.arch.cpuid import DEFAULT, FEATURES, Entry, entries, features_of, missing, offered


def full_host(leaf: int, subleaf: int) -> tuple[int, int, int, int]:
    """A host with every bit of every leaf."""
    if leaf in {0, 0x80000000}:
        return leaf | 0x20, 0, 0, 0
    return (0xFFFFFFFF,) * 4


def old_host(leaf: int, subleaf: int) -> tuple[int, int, int, int]:
    """A host without leaf 7: no AVX2, no BMI."""
    if leaf == 0:
        return 6, 0, 0, 0
    return full_host(leaf, subleaf)


def find(table: list[Entry], leaf: int, subleaf: int = 0) -> Entry:
    return next(row for row in table if (row.leaf, row.subleaf) == (leaf, subleaf))


def bit(table: list[Entry], leaf: int, subleaf: int, register: int, number: int) -> int:
    return find(table, leaf, subleaf)[3 + register] >> number & 1


def test_full_host_is_offered_the_whole_model() -> None:
    assert offered(DEFAULT, full_host) == frozenset(FEATURES) - {"rdtscp"}
    assert missing(full_host) == []


def test_table_shows_exactly_what_is_offered() -> None:
    for host in (full_host, old_host):
        assert features_of(entries(DEFAULT, host, 2_500_000)) == offered(DEFAULT, host)


def test_old_host_keeps_what_the_virtual_processor_does_itself() -> None:
    names = offered(DEFAULT, old_host)
    assert {"serialize", "rdpid", "xsaves", "arch_capabilities", "avx"} <= names
    assert not {"avx2", "bmi1", "adx", "vaes"} & names
    assert missing(old_host) == ["avx2", "bmi1", "bmi2"]


def test_vector_features_need_avx() -> None:
    def no_avx(leaf: int, subleaf: int) -> tuple[int, int, int, int]:
        a, b, c, d = full_host(leaf, subleaf)
        return (a, b, c & ~(1 << 28), d) if leaf == 1 else (a, b, c, d)

    names = offered(DEFAULT, no_avx)
    assert not {"avx", "avx2", "fma", "f16c", "vaes"} & names
    table = entries(DEFAULT, no_avx, 2_500_000)
    assert find(table, 0xD)[3:] == (3, 576, 576, 0)
    assert (0xD, 2) not in {(row.leaf, row.subleaf) for row in table}


def test_machine_can_withhold_a_feature() -> None:
    table = entries(DEFAULT, full_host, 2_500_000, hide=frozenset({"x2apic"}))
    assert not bit(table, 1, 0, cpuid.ECX, 21)
    assert bit(table, 1, 0, cpuid.ECX, 24)


@pytest.mark.parametrize(
    ("leaf", "register", "number"),
    [
        (1, cpuid.ECX, 3),  # MONITOR
        (1, cpuid.ECX, 5),  # VMX
        (1, cpuid.ECX, 15),  # PDCM
        (1, cpuid.ECX, 17),  # PCID
        (1, cpuid.EDX, 21),  # DS
        (1, cpuid.EDX, 22),  # ACPI
        (7, cpuid.EBX, 4),  # HLE
        (7, cpuid.EBX, 7),  # SMEP
        (7, cpuid.EBX, 10),  # INVPCID
        (7, cpuid.EBX, 11),  # RTM
        (7, cpuid.EBX, 14),  # MPX
        (7, cpuid.EBX, 16),  # AVX512F
        (7, cpuid.EBX, 20),  # SMAP
        (7, cpuid.ECX, 2),  # UMIP
        (7, cpuid.ECX, 3),  # PKU
        (7, cpuid.ECX, 7),  # CET_SS
        (7, cpuid.ECX, 16),  # LA57
        (7, cpuid.EDX, 24),  # AMX-TILE
        (0x80000001, cpuid.ECX, 2),  # SVM
        (0x80000001, cpuid.ECX, 6),  # SSE4A
    ],
)
def test_hidden_feature(leaf: int, register: int, number: int) -> None:
    assert not bit(entries(DEFAULT, full_host, 2_500_000), leaf, 0, register, number)


def test_performance_counters_and_power_are_hidden() -> None:
    leaves = {row.leaf for row in entries(DEFAULT, full_host, 2_500_000)}
    assert not leaves & {5, 0xA, 0x12, 0x14, 0x1D}
    assert find(entries(DEFAULT, full_host, 2_500_000), 6)[3:] == (4, 0, 0, 0)


def test_vendor_signature_and_brand() -> None:
    table = entries(DEFAULT, full_host, 2_500_000)
    _, _, _, top, ebx, ecx, edx = find(table, 0)
    assert top == 0x16
    assert b"".join(w.to_bytes(4, "little") for w in (ebx, edx, ecx)) == b"GenuineIntel"
    eax = find(table, 1).eax
    assert (eax >> 8 & 15, eax >> 12 & 0xF0 | eax >> 4 & 15, eax & 15) == (6, 0xFE, 1)
    words = [word for i in range(3) for word in find(table, 0x80000002 + i)[3:]]
    brand = b"".join(word.to_bytes(4, "little") for word in words).rstrip(b"\0").decode()
    assert brand == DEFAULT.brand


@pytest.mark.parametrize("khz", [1_000_000, 2_596_139, 4_200_123, 5_600_000])
def test_tsc_ratio_gives_the_frequency_in_linuxs_arithmetic(khz: int) -> None:
    table = entries(DEFAULT, full_host, khz)
    denominator, numerator, crystal, _ = find(table, 0x15)[3:]
    product = crystal // 1000 * numerator
    assert product < 1 << 32
    assert abs(product // denominator - khz) <= 1
    assert find(table, 0x16).eax == round(khz / 1000)


def test_hypervisor_says_its_own_name_first_and_offers_kvms_interface_without_its_clock() -> None:
    table = entries(DEFAULT, full_host, 2_500_000)
    names = {}
    for leaf in (0x40000000, 0x40000100):
        _, _, _, top, *words = find(table, leaf)
        names[leaf] = (top, b"".join(word.to_bytes(4, "little") for word in words).rstrip(b"\0"))
    assert names == {
        0x40000000: (0x40000010, b"RingletVMM"),
        0x40000100: (0x40000101, b"KVMKVMKVM"),
    }
    assert find(table, 0x40000101)[3:] == (1 << 1 | 1 << 15, 0, 0, 0)


def test_no_row_stands_twice() -> None:
    keys = [(row.leaf, row.subleaf) for row in entries(DEFAULT, full_host, 2_500_000)]
    assert len(keys) == len(set(keys))


def test_addresses_are_46_and_48_bits_wide() -> None:
    assert find(entries(DEFAULT, full_host, 2_500_000), 0x80000008).eax == 48 << 8 | 46


def test_no_two_features_share_a_bit() -> None:
    places = [where[:4] for where in FEATURES.values()]
    assert len(places) == len(set(places))
