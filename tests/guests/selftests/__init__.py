"""Programs that test the processor from inside a Linux guest, each with a verdict."""
