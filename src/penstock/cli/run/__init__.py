"""`penstock run`: worker processes for a router, supervised."""
