"""Routing: a router's handlers, and the consumers that they share."""
