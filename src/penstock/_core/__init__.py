"""The pure core: no I/O, no clock, no randomness, no asyncio, no redis.

Time comes in as `now`, chance as a number, and replies as parsed values.
"""
