"""Errors of this library: a stable code, the message, and the next step for people."""


class ClientError(Exception):
    """Base of all errors of this library. `code` is stable; `next_step` is an instruction for people."""

    code = "client_error"

    def __init__(self, message: str, next_step: str) -> None:
        super().__init__(f"{message}; {next_step}")
        self.message = message
        self.next_step = next_step


class CredentialsError(ClientError):
    """The credentials file cannot be read, or is of another kind of identity."""

    code = "credentials_unusable"


class PublishError(ClientError):
    """The event was not stored."""

    code = "not_published"


class NatsUnreachableError(PublishError):
    """NATS does not answer. Whether the event was stored is unknown: publish it again under the same id."""

    code = "nats_unreachable"


class PublishDeniedError(PublishError):
    """The credentials are wrong, or do not allow this publisher."""

    code = "publish_denied"


class PublishRefusedError(PublishError):
    """The intake refused the event: it is too large, or the intake is full."""

    code = "publish_refused"


class SubscribeDeniedError(ClientError):
    """The credentials are wrong, revoked, or do not allow this subscription."""

    code = "subscribe_denied"


class UnsealDeniedError(ClientError):
    """This subscriber may not open the personal data of a context, or its key pair was replaced."""

    code = "unseal_denied"


class ConnectionLostError(ClientError):
    """The connection to NATS was closed for good, after an error that the NATS client does not retry."""

    code = "connection_lost"


class NotSubscribedError(ClientError):
    """The durable consumer does not exist, has another configuration, or does not receive a handled type."""

    code = "not_subscribed"


class UnreadableEventError(ClientError):
    """An event of a batch cannot be read; usually this library is older than the event."""

    code = "unreadable_event"


class OlderLogError(ClientError):
    """The log does not contain the event at the stored position."""

    code = "older_log"
