"""Compare the totals on the server with those of the file."""

import os
import sys
from collections import Counter
from pathlib import Path

from redis import Redis
from totals import LINE

requests, sizes = Counter[str](), Counter[str]()
for line in Path(sys.argv[1]).read_text().splitlines():
    if found := LINE.match(line):
        client, size = found.groups()
        requests[client] += 1
        sizes[client] += 0 if size == "-" else int(size)

with Redis.from_url(os.environ["REDIS_URL"], decode_responses=True) as redis:
    counted = {k: int(v) for k, v in redis.hgetall("totals.requests").items()}
    summed = {k: int(v) for k, v in redis.hgetall("totals.bytes").items()}
exact = counted == requests and summed == sizes
print(len(requests), "clients,", sum(requests.values()), "requests:", end=" ")
print("the totals are exact" if exact else "the totals differ")
sys.exit(not exact)
