"""Real NATS and PostgreSQL servers as child processes, from Python packages alone."""

from paybill_embedded.errors import EmbeddedError
from paybill_embedded.lock import DataDir
from paybill_embedded.nats import NatsServer
from paybill_embedded.ports import free_port
from paybill_embedded.postgres import PostgresServer

__all__ = ["DataDir", "EmbeddedError", "NatsServer", "PostgresServer", "free_port"]
