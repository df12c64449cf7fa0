"""Reading: one reader per connection, recovery, and the health of the shards."""
