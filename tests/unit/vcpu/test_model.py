"""The default model on this host."""

from ringlet.arch.cpuid import features_of
from ringlet.translate.features import BASE, NAMES
from ringlet.vcpu.model import default_entries, tsc_khz


def test_default_table_offers_x86_64() -> None:
    assert {"lm", "sse2", "syscall", "nx", "apic", "tsc_deadline_timer"} <= features_of(
        default_entries()
    )


def test_tsc_frequency_is_plausible_and_steady() -> None:
    first, second = tsc_khz.__wrapped__(), tsc_khz.__wrapped__()

    assert 100_000 < first < 10_000_000
    assert abs(first - second) < first // 1000


def test_every_feature_of_the_translator_can_be_shown() -> None:
    from ringlet.arch.cpuid import FEATURES

    assert set(NAMES.values()) - {BASE} <= set(FEATURES)
