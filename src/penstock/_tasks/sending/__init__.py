"""Tasks that send messages: from a caller's message to its receipt."""
