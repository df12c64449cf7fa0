"""The format of entries: envelopes, payloads, dead letters, and the keys of shards."""
