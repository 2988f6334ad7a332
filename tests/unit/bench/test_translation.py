"""The walk over a text."""

from dataclasses import dataclass

from ringlet.bench.translation import KEY_KERNEL64, Pass, measure, walk


@dataclass
class Made:
    guest_instructions: int
    guest_bytes: int
    host_bytes: int


@dataclass
class MadeWithMaps(Made):
    cache_bytes: int


class Eights:
    """Takes eight bytes and two instructions a fragment; a byte FFh is no instruction."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, int]] = []

    def translate(self, data: bytes, linear: int, key: int) -> Made:
        self.seen.append((linear, key))
        if data[0] == 0xFF:
            return Made(0, 0, 0)
        size = min(8, len(data))
        return MadeWithMaps(2, size, 3 * size, 5 * size)


def test_a_fragment_begins_where_the_last_one_ended() -> None:
    translator = Eights()

    walk(translator, bytes(20), 0x1000)

    assert translator.seen == [(0x1000, KEY_KERNEL64), (0x1008, KEY_KERNEL64),
                               (0x1010, KEY_KERNEL64)]  # fmt: skip


def test_sums_are_over_all_fragments() -> None:
    walked = walk(Eights(), bytes(20), 0)

    assert (walked.fragments, walked.instructions, walked.guest_bytes) == (3, 6, 20)
    assert (walked.expansion, walked.cache_expansion) == (3.0, 5.0)


def test_what_is_no_instruction_is_skipped_and_counted() -> None:
    walked = walk(Eights(), b"\xff\xff" + bytes(8), 0)

    assert (walked.skipped_bytes, walked.guest_bytes) == (2, 8)


def test_cold_and_warm_use_one_translator() -> None:
    made: list[Eights] = []

    def make() -> Eights:
        made.append(Eights())
        return made[0]

    throughput = measure(bytes(16), 0, make)

    assert len(made) == 1
    assert len(made[0].seen) == 4
    assert throughput.cold.instructions == throughput.warm.instructions == 4


def test_time_is_divided_by_the_instructions() -> None:
    assert Pass(2.0, 1, 1000, 1, 1, 1, 0).us_per_instruction == 2000.0


def test_a_walk_over_nothing_has_no_rate() -> None:
    walked = walk(Eights(), b"", 0)

    assert (walked.us_per_instruction, walked.expansion, walked.cache_expansion) == (0, 0, 0)
