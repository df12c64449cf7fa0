"""`penstock reset`, `claim` and `delete`: commands that change groups and streams."""
