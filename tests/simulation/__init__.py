"""A deterministic simulator of Penstock, its network and its server."""
