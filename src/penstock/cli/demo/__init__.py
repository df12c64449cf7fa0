"""`penstock demo`: a stream, two worker processes, and one of them killed."""
