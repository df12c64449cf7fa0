"""Owned shards: a consumer's membership of a group, and the shards that it owns."""
