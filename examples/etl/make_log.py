"""Make up a log of a web server, for trying things out."""

import random

random.seed(7)
with open("access.log", "w") as file:
    for number in range(20_000):
        client = f"192.0.2.{random.randrange(200)}"
        time = f"[17/May/2025:10:{number // 60 % 60:02}:{number % 60:02} +0000]"
        request = f'"GET /page/{random.randrange(50)} HTTP/1.1" 200'
        file.write(f"{client} - - {time} {request} {random.randrange(9000)}\n")
print("wrote access.log")
