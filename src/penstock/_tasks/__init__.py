"""Background tasks: one coroutine each, which gets everything it needs as arguments."""
