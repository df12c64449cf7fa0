"""`penstock owners`: shows which member owns which shard, and moves shards."""
