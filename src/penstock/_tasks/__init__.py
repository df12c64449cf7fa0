"""The tasks that move things: one coroutine each, told everything by arguments."""
