"""Rows of the quarantine: refused messages as they were sent."""

from sqlalchemy import text

KEEP_REFUSED = text(
    "INSERT INTO chassis.quarantine "
    "(quarantine_id, publisher, subject, headers, payload, reason, sequence, quarantined_at) "
    "VALUES (:id, :publisher, :subject, :headers, :payload, :reason, :sequence, :now) ON CONFLICT DO NOTHING"
)
"""Stores refused messages; one that is stored already stays."""
DELETE_REFUSED = text(
    "DELETE FROM chassis.quarantine WHERE quarantine_id IN "
    "(SELECT quarantine_id FROM chassis.quarantine WHERE quarantined_at < :before LIMIT :limit)"
)
"""Deletes messages that were refused before a time."""
