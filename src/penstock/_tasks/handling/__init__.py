"""Handling tasks: the entry queue, the workers, iteration, and failed handlers."""
