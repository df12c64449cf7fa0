"""The way to the server: the only place that knows redis-py and hiredis.

redis-py makes the connections (URLs, TLS, credentials); once one is ready its
transport is driven by `Connection`, which pairs requests and replies in batches.
"""
