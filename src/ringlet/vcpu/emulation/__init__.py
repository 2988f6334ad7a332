"""One emulated instruction at a time, by families; `emulator` is the way in."""
