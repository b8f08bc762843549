"""Looking at a log's past: the engine's state at any place, and what changed between two."""
