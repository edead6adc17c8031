"""Pytest plugin: real servers, a fresh database and an empty log for each test, and whole services in this process.

One PostgreSQL and one NATS server serve all tests of a process. Each test that asks for a database gets a new one; each
test that asks for NATS finds new, empty streams. A test that stops, kills or rewrites NATS has the mark `own_nats`.
"""

from paybill_runtime.testing.databases import Databases, databases, migrated_databases
from paybill_runtime.testing.event_log import EventLog, Publish, log, publish
from paybill_runtime.testing.garbage import pytest_collection_finish, pytest_runtest_protocol
from paybill_runtime.testing.running import Served, Start, start
from paybill_runtime.testing.servers import (
    nats,
    postgres,
    pytest_configure,
    shared_nats,
)
from paybill_runtime.testing.signing import make_test_identity, publish_fact, publish_signed, signed
from paybill_runtime.testing.stopping import stop_processes
from paybill_runtime.testing.waiting import cancel, until

__all__ = [
    "Databases",
    "EventLog",
    "Publish",
    "Served",
    "Start",
    "cancel",
    "databases",
    "log",
    "make_test_identity",
    "migrated_databases",
    "nats",
    "postgres",
    "publish",
    "publish_fact",
    "publish_signed",
    "pytest_collection_finish",
    "pytest_configure",
    "pytest_runtest_protocol",
    "shared_nats",
    "signed",
    "start",
    "stop_processes",
    "until",
]
