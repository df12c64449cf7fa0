"""The pure core: no I/O, no clock, no chance, no asyncio, no redis.

Time comes in as `now`, chance as a number, replies as what the parser made of them.
"""
