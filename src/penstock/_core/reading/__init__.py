"""Decisions about reading: positions, the next request, and the order of messages."""
