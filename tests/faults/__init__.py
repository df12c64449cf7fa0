"""Faults of all kinds on real servers, and what became of each message."""
