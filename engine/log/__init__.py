"""Event logs: the protocol, `MemoryLog` and `FileLog`."""
