"""Decisions about handlers: which one a message is for, and how it is settled."""
