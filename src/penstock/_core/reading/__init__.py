"""Decisions about reading: positions, what to ask for next, and in which order."""
