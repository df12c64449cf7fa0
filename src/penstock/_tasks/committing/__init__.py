"""Committing: acknowledgements, dead letters, and the timers of both."""
