"""`penstock trim`: trims a stream by length, age, id, or acknowledgements."""
