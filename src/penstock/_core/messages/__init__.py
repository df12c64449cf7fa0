"""The format of entries: envelopes, payloads, dead letters, and shard keys."""
