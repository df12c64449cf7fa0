"""Leases: renewed, claimed from dead consumers, counted, and released on closing."""
