"""Tasks that send: from a caller's message to its receipt."""
