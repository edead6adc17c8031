"""Tables of the runtime, the same in every service's database, in the schema `chassis`.

Table and column names are older than the vocabulary of the code: `member` holds the heartbeats of replicas, `parked`
the retry queue and its dead letters.
"""

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)

NAMING = {
    "pk": "%(table_name)s_pkey",
    "uq": "%(table_name)s_%(column_0_N_name)s_key",
    "ix": "%(table_name)s_%(column_0_N_name)s_idx",
}
SCHEMA = "chassis"
metadata = MetaData(schema=SCHEMA, naming_convention=NAMING)


def _time(name: str, *, nullable: bool = False) -> "Column[object]":
    return Column(name, DateTime(timezone=True), nullable=nullable)


def _text(name: str, *, nullable: bool = False, primary_key: bool = False) -> "Column[str]":
    return Column(name, Text, nullable=nullable, primary_key=primary_key)


outbox = Table(
    "outbox",
    metadata,
    Column("position", BigInteger, Identity(always=True), primary_key=True),
    Column("event_id", Uuid, nullable=False, unique=True),
    _text("aggregate"),
    Column("revision", BigInteger, nullable=False),
    _text("tenant", nullable=True),
    _text("subject"),
    _text("headers"),
    Column("payload", LargeBinary, nullable=False),
    _time("recorded_at"),
    UniqueConstraint("aggregate", "revision"),
)
"""Facts as they were decided; rows never change. `headers`: those that the other columns do not determine."""

publication = Table(
    "publication",
    metadata,
    Column("position", BigInteger, primary_key=True, autoincrement=False),
    Column("sequence", BigInteger),
)
"""A row for each fact in the outbox. `sequence`: in the stream; NULL until the broker confirmed the publication."""
Index("publication_waiting_idx", publication.c.position, postgresql_where=publication.c.sequence.is_(None))
Index("publication_sequence_idx", publication.c.sequence, postgresql_where=publication.c.sequence.is_not(None))

inbox = Table(
    "inbox", metadata, Column("event_id", Uuid, primary_key=True), Column("sequence", BigInteger, nullable=False)
)
"""Every message that was handled, permanently: a second copy is ignored."""

position = Table(
    "position",
    metadata,
    _text("stream", primary_key=True),
    Column("partition", SmallInteger, primary_key=True),
    Column("sequence", BigInteger, nullable=False),
    Column("message", Uuid),
    Column("handled", BigInteger, nullable=False, server_default=text("0")),
)
"""The position of the consumer in each partition, committed with the decisions; `message` is the id at the position.

The sum of `handled` is the number of rows of the inbox.
"""

lease = Table(
    "lease",
    metadata,
    _text("name", primary_key=True),
    _text("owner"),
    Column("epoch", BigInteger, nullable=False),
)
"""Owners of partitions and singleton tasks. Every transaction of an owner locks its lease and checks the epoch."""

instance = Table("member", metadata, _text("owner", primary_key=True), _time("expires_at"))
"""Heartbeats of replicas: their leases are valid until `expires_at`, and partitions are shared evenly among them."""

retry_queue = Table(
    "parked",
    metadata,
    Column("event_id", Uuid, primary_key=True),
    _text("stream"),
    Column("sequence", BigInteger, nullable=False),
    Column("partition", SmallInteger, nullable=False),
    _text("tenant"),
    _text("subject"),
    _text("headers"),
    Column("payload", LargeBinary, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("dead", Boolean, nullable=False, server_default=text("false")),
    Column("revision", Integer, nullable=False, server_default=text("0")),
    _time("next_at"),
    _text("reason"),
)
"""The retry queue: facts that failed, and facts of the same tenant behind them. `dead`: a dead letter."""
Index("parked_queue_idx", retry_queue.c.partition, retry_queue.c.tenant, retry_queue.c.sequence)

quarantine = Table(
    "quarantine",
    metadata,
    Column("quarantine_id", Uuid, primary_key=True),
    _text("publisher"),
    _text("subject"),
    _text("headers"),
    Column("payload", LargeBinary, nullable=False),
    _text("reason"),
    Column("sequence", BigInteger, nullable=False),
    _time("quarantined_at"),
)
"""Intake events that the owner of the type refused, and facts that their writer has not signed, unchanged."""

job = Table(
    "job",
    metadata,
    Column("job_id", Uuid, primary_key=True, server_default=text("gen_random_uuid()")),
    Column("position", BigInteger, Identity(always=True), nullable=False),
    _text("kind"),
    _text("key"),
    _text("queue"),
    Column("locks", ARRAY(Text), nullable=False),
    _text("lease"),
    Column("priority", SmallInteger, nullable=False),
    _text("state"),
    _time("due"),
    _time("deadline", nullable=True),
    Column("attempts", Integer, nullable=False, server_default=text("0")),
    _text("error", nullable=True),
    Column("requests", BigInteger, nullable=False, server_default=text("1")),
    _text("detail", nullable=True),
    Column("event_id", Uuid),
    Column("revision", Integer, nullable=False, server_default=text("0")),
    _time("ended_at", nullable=True),
    Column("waits", Integer, nullable=False, server_default=text("0")),
)
"""Background work. `state`: `pending`, `done`, `failed` or `cancelled`. `queue`: the tenant, or another group of jobs.
`locks`: resources of the queue on which no two jobs work at a time. `event_id`: the fact that requires the job. A job
without a fact exists once for each kind and key, and `requests` grows when it is requested again. `waits`: how often in
a row another system was away."""
_PENDING = job.c.state == "pending"
Index(
    "job_queue_idx",
    job.c.priority,
    job.c.queue,
    job.c.position,
    postgresql_where=_PENDING,
    postgresql_include=["due"],
)
Index("job_order_idx", job.c.queue, job.c.position, postgresql_where=_PENDING)
Index("job_due_idx", job.c.priority, job.c.due, postgresql_where=_PENDING)
Index("job_key_idx", job.c.kind, job.c.key, unique=True, postgresql_where=_PENDING & job.c.event_id.is_(None))
Index("job_waits_idx", job.c.position, postgresql_where=_PENDING & ((job.c.waits > 0) | (job.c.attempts > 0)))
Index("job_failed_idx", job.c.position, postgresql_where=job.c.state == "failed")
Index("job_ended_idx", job.c.ended_at, postgresql_where=job.c.ended_at.is_not(None))

data_key = Table(
    "data_key",
    metadata,
    _text("tenant", primary_key=True),
    Column("wrapped", LargeBinary, nullable=False),
    Column("copied", Boolean, nullable=False, server_default=text("false")),
)
"""Data keys of personal data, encrypted for this service. `copied`: recipients have copies in the key bucket."""
Index("data_key_uncopied_idx", data_key.c.tenant, postgresql_where=~data_key.c.copied)

key_recipient = Table(
    "key_recipient",
    metadata,
    _text("name", primary_key=True),
    Column("public_key", LargeBinary),
    Column("revision", Integer, nullable=False),
)
"""Subscribers that may open the personal data of this service. `public_key`: X25519; NULL after a withdrawal."""

api_key = Table(
    "api_key",
    metadata,
    _text("id", primary_key=True),
    Column("sequence", BigInteger, nullable=False),
    _text("key"),
    Column("revoked", Boolean, nullable=False, server_default=text("false")),
)
"""Copies of the API keys that were created by command, as JSON. `sequence`: of the key's last fact in the stream, 0
before it is published. An empty table is filled again from the log."""

idempotency = Table(
    "idempotency",
    metadata,
    _text("key", primary_key=True),
    _text("digest"),
    _text("answer"),
    _time("created_at"),
)
"""Responses to requests with an Idempotency-Key."""

state_format = Table(
    "state_format",
    metadata,
    _text("kind", primary_key=True),
    Column("format", Integer, nullable=False),
)
"""Format in which the states of a kind are stored. A kind without a row has format 1."""

write_probe = Table("write_probe", metadata, _text("service", primary_key=True), _time("written_at"))
"""One row, which is written again and again to test that this database takes writes."""

publisher_minute = Table(
    "publisher_minute",
    metadata,
    _text("publisher", primary_key=True),
    Column("minute", DateTime(timezone=True), primary_key=True),
    *(Column(name, BigInteger, nullable=False) for name in ("messages", "size_bytes", "refused", "left_out")),
    *(Column(name, BigInteger, nullable=False) for name in ("first_sequence", "last_sequence")),
    _text("subject"),
    _text("reason"),
    _time("updated_at"),
)
"""Usage of a publisher in a minute, and the messages beyond its limits until a fact counts them."""
