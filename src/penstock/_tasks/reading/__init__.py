"""Tasks that read: one reader for each connection, and what keeps shards readable."""
