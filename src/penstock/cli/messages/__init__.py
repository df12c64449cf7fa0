"""`penstock send`, `read` and `tail`: writes and reads messages, without a group."""
