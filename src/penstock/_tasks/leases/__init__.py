"""Leases: renewal, claims from dead consumers, delivery counts, release on closing."""
