"""Tasks that tell the server: acknowledgements, dead letters, and timers."""
