"""The state of every entry that a consumer holds, from its delivery to its outcome."""
