"""`penstock trim`: streams trimmed by number, age, or what was acknowledged."""
