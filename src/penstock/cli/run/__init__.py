"""`penstock run`: runs a router in supervised worker processes."""
