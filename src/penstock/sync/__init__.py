"""A producer for synchronous code: Flask and Django views, Celery tasks, scripts.

Example:
    ```python
    from penstock.sync import Producer

    producer = Producer("redis://localhost")  # opens when it is first used


    def order_created(order: Order) -> None:
        producer.send("orders", order, key=order.customer)
    ```
"""

from penstock.sync._producer import Producer

__all__ = ["Producer"]
