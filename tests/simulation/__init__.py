"""A deterministic simulator: the real client code in simulated time and network."""
