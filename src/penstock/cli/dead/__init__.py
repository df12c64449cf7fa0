"""`penstock dead`: lists, shows, redrives and purges dead letters."""
