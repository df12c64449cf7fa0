"""The server's protocol: commands, scripts, and the meaning of their replies."""
