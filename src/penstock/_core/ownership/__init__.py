"""Owned shards: who should have which shard, and what a member may do with it."""
