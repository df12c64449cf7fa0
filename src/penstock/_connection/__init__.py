"""Connections to the server: the only package that imports redis-py and hiredis.

redis-py makes the connections (URLs, TLS, credentials). Once a connection is ready,
`Connection` drives its transport and pairs requests and replies in batches.
"""
