"""The run loop: events, translation and entry, exceptions, and the faults of translated code."""
