"""`penstock top`: shows all groups, and keeps showing them."""
