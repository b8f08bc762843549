"""The outside world: one file for each client library, which only that file imports."""
