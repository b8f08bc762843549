"""What users declare: patterns, rules and schedules."""
