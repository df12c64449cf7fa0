"""Metrics: what attempts and sends are counted and timed in."""
