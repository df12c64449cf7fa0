"""`penstock dead`: dead letters listed, shown, redriven and purged."""
