"""Faults of all kinds on real servers, and the fate of each message."""
