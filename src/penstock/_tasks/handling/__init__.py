"""Tasks that handle: the queue, the workers, and what a handler's end means."""
