"""Integrations with frameworks; each module imports the one that it is for, or none."""
