"""Decisions about handlers: the choice of a message's handler, and its settlement."""
