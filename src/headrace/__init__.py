"""headrace: an event-driven, durable, replayable workflow engine."""
