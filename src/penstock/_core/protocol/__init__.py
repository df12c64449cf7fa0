"""The server's language: commands, scripts, and what their replies mean."""
