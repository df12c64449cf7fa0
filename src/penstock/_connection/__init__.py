"""Connections to the server: the only package that imports redis-py and hiredis.

`Connection` is asyncio's protocol on the event loop's own transport. It pairs requests
and replies in batches, and hiredis packs and parses them. Of redis-py only public
functions are used, which all its versions from 5.0 on have.
"""
