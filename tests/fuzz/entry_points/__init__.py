"""One module per room, one function per entry point; see `tests.fuzz.harness.entry_point`."""
