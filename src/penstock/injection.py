"""Injection: further arguments of handlers, made for each attempt.

A handler's first parameter is given the message or its payload. Each further one says
by its annotation what it is given:

| annotation | is given |
|---|---|
| `Inject[Database]` | the service of that type, from the router's `services` |
| `Producer` | the producer of the router's run, on the same server |
| `Transaction` | a transaction of the message, applied when the handler returns |
| `Message[Order]` | the message, where the first parameter takes the payload |
"""

from __future__ import annotations

from typing import Annotated, Final, TypeAlias, TypeVar

__all__ = ["SERVICE", "Inject"]

T = TypeVar("T")


class _Service:
    """Marks a parameter that is given a service."""

    def __repr__(self) -> str:
        return "Inject"


SERVICE: Final = _Service()

Inject: TypeAlias = Annotated[T, SERVICE]
"""A parameter of a handler that is given a service of a type.

The router's `services`, a registry of [svcs](https://svcs.hynek.me), makes the service
in a container of its own for each attempt. The container is closed when the handler has
ended, successfully or not, and before the message is acknowledged. What making the
service raises is the handler's failure. A type that is not registered is a
`ConfigurationError` when the router starts. This needs `pip install
'penstock[inject]'`.

Example:
    ```python
    import svcs
    from penstock import Inject, Router

    registry = svcs.Registry()
    registry.register_factory(Database, connect)

    router = Router(services=registry)

    @router.handler("orders", group="billing")
    async def charge(order: Order, database: Inject[Database]) -> None:
        await database.charge(order)
    ```
"""
