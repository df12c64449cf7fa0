"""What a service shows of itself: logs as JSON, for now."""
