"""What holds for all tests: Hypothesis makes the same examples each time; nightly runs make new."""

from hypothesis import settings

settings.register_profile("same", derandomize=True, deadline=None)
settings.load_profile("same")
