"""Names of OpenTelemetry's semantic conventions for messaging, and Penstock's own.

The conventions have the status "development": names may change. So all of them are
here, and a test compares them with the installed package of the conventions.
"""

from __future__ import annotations

from typing import Final

SYSTEM: Final = "messaging.system"
OPERATION_NAME: Final = "messaging.operation.name"
OPERATION_TYPE: Final = "messaging.operation.type"
DESTINATION_NAME: Final = "messaging.destination.name"
PARTITION_ID: Final = "messaging.destination.partition.id"
CONSUMER_GROUP_NAME: Final = "messaging.consumer.group.name"
CLIENT_ID: Final = "messaging.client.id"
MESSAGE_ID: Final = "messaging.message.id"
BATCH_MESSAGE_COUNT: Final = "messaging.batch.message_count"
SERVER_ADDRESS: Final = "server.address"
SERVER_PORT: Final = "server.port"
ERROR_TYPE: Final = "error.type"

CREATE: Final = "create"
SEND: Final = "send"
PROCESS: Final = "process"

# Not in the conventions, whose list of systems may be extended. Valkey has the same.
REDIS: Final = "redis"
# Penstock's own.
DELIVERY_ATTEMPT: Final = "messaging.redis.message.delivery_attempt"
RETRY_DELAY: Final = "messaging.redis.retry.delay"
LETTER_ID: Final = "messaging.redis.dead_letter.id"
