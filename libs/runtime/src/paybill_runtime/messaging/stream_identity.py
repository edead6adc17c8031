"""Check that a stream is the one that was consumed or published to: the same message at the same sequence."""

import logging

from nats.aio.client import Client
from nats.js.errors import NotFoundError

from paybill_runtime.decisions.restore_guard import OLDER_STREAM, LogStateMismatchError
from paybill_runtime.messaging.message_ids import message_id
from paybill_runtime.messaging.streams import EVENTS

log = logging.getLogger(__name__)


async def check_stream_identity(client: Client, stream: str, sequence: int, id_: str | None) -> None:
    """Raises LogStateMismatchError unless the stream still has the message `id_` at `sequence` (None: any message).

    A message that cannot be read between others is a fault of one message, and not another stream: nothing is deleted
    from a stream.
    """
    state = (await client.jetstream().stream_info(stream)).state
    if state.last_seq < sequence:
        raise LogStateMismatchError(
            f"the stream ends at {state.last_seq}, but the position is {sequence}: {OLDER_STREAM}"
        )
    if id_ is None:
        return
    if sequence < max(state.first_seq, 1):
        if stream == EVENTS and sequence > 0:
            raise LogStateMismatchError(
                f"the stream begins at {state.first_seq}, but the position is {sequence}: {OLDER_STREAM}"
            )
        return
    try:
        message = await client.jetstream().get_msg(stream, sequence, direct=True)
    except NotFoundError:
        log.warning("sequence %d of %s cannot be read", sequence, stream)
        return
    if message_id(stream, message.subject or "", message.headers or {}, sequence) != id_:
        raise LogStateMismatchError(f"the stream has another message at {sequence} than before: {OLDER_STREAM}")
