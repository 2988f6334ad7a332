"""The walk over a text."""

from dataclasses import dataclass

from ringlet.bench.translation import KEY_KERNEL64, Pass, measure, walk


@dataclass
class Made:
    fragments: int
    guest_instructions: int
    guest_bytes: int
    host_bytes: int
    cache_bytes: int


class Eights:
    """Takes eight bytes and two instructions a fragment, and leaves what is shorter."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, int]] = []

    def sweep(self, text: bytes, linear: int, key: int) -> Made:
        self.seen.append((linear, key))
        count = len(text) // 8
        return Made(count, 2 * count, 8 * count, 24 * count, 40 * count)


def test_a_walk_says_what_the_sweep_made_and_left() -> None:
    translator = Eights()

    walked = walk(translator, bytes(20), 0x1000)

    assert translator.seen == [(0x1000, KEY_KERNEL64)]
    assert (walked.fragments, walked.instructions, walked.guest_bytes) == (2, 4, 16)
    assert (walked.expansion, walked.cache_expansion, walked.skipped_bytes) == (3.0, 5.0, 4)


def test_cold_and_warm_use_one_translator() -> None:
    made: list[Eights] = []

    def make() -> Eights:
        made.append(Eights())
        return made[0]

    throughput = measure(bytes(16), 0, make)

    assert len(made) == 1
    assert len(made[0].seen) == 2
    assert throughput.cold.instructions == throughput.warm.instructions == 4


def test_time_is_divided_by_the_instructions() -> None:
    assert Pass(2.0, 1, 1000, 1, 1, 1, 0).us_per_instruction == 2000.0


def test_a_walk_over_nothing_has_no_rate() -> None:
    walked = walk(Eights(), b"", 0)

    assert (walked.us_per_instruction, walked.expansion, walked.cache_expansion) == (0, 0, 0)
