"""A short run of the campaign against the agent and the host's side of its protocol."""

from tests.fuzz.agent import campaign


def test_random_frames_both_ways() -> None:
    assert campaign(8, 1) > 5
