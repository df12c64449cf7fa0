"""`penstock relay`: moves the messages of a stream to a list or to another stream."""
