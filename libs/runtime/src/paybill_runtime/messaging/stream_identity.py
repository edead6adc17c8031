"""Whether a stream is still the one that was read or written: the same message at the same place."""

from nats.aio.client import Client
from nats.js.errors import NotFoundError

from paybill_runtime.decisions.restore_guard import OLDER_STREAM, LogStateMismatchError
from paybill_runtime.messaging.subscriptions import message_id


async def check_stream_identity(client: Client, stream: str, sequence: int, id_: str | None) -> None:
    """Raise LogAndStateDisagreeError unless the stream still holds the message `id_` at `sequence` (None: any)."""
    state = (await client.jetstream().stream_info(stream)).state
    if state.last_seq < sequence:
        raise LogStateMismatchError(f"the stream ends at {state.last_seq}, but {sequence} was seen: {OLDER_STREAM}")
    if id_ is None or sequence < max(state.first_seq, 1):
        return
    try:
        message = await client.jetstream().get_msg(stream, sequence, direct=True)
        found = message_id(stream, message.subject or "", message.headers or {}, sequence)
    except NotFoundError:
        found = ""
    if found != id_:
        raise LogStateMismatchError(f"the stream holds another message at {sequence} than was seen: {OLDER_STREAM}")
