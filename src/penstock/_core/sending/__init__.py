"""Decisions about sending: batches, repeats that are stored once, durability."""
