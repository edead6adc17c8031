"""Base class and registry of events: frozen, typed, versioned and owned by one service."""

from collections.abc import Callable
from functools import lru_cache
from hashlib import sha256
from typing import Any, ClassVar, TypeVar

import orjson
from pydantic import BaseModel, ConfigDict, ValidationError
from typing_extensions import override

from paybill_contracts.errors import DomainError
from paybill_contracts.validation_messages import plain_message

Payload = dict[str, Any]
PARTITIONS = 16

_KNOWN: dict[tuple[str, int], type["Event"]] = {}
_LATEST: dict[str, type["Event"]] = {}
_UPCASTERS: dict[tuple[str, int], Callable[[Payload], Payload]] = {}

U = TypeVar("U", bound=Callable[[Payload], Payload])


class UnknownEventError(DomainError):
    """No class is registered for this type and version: the consumer is older than the publisher."""

    code = "unknown_event"


class InvalidEventError(DomainError):
    """The payload does not match the schema of its type."""

    code = "invalid_event"


class Value(BaseModel):
    """Frozen part of an event. Unknown fields are ignored."""

    # Validators are built at first use: no process uses all of them, and together they take 5 MB.
    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, defer_build=True)


class Event(Value):
    """A fact in the past tense, complete enough that a subscriber need not call back.

    Class keywords: `type` is `<owner>.<fact>`; `version` counts from 1; `aggregate` is the kind of the aggregate and
    `key` the field with its id.
    """

    TYPE: ClassVar[str]
    VERSION: ClassVar[int]
    OWNER: ClassVar[str]
    AGGREGATE: ClassVar[str]
    KEY: ClassVar[str]

    @override
    def __init_subclass__(cls, *, type: str = "", version: int = 1, aggregate: str = "", key: str = "") -> None:
        """Accepts the class keywords; `__pydantic_init_subclass__` uses them once the fields are known."""
        super().__init_subclass__()

    @classmethod
    @override
    def __pydantic_init_subclass__(
        cls, *, type: str = "", version: int = 1, aggregate: str = "", key: str = "", **_: object
    ) -> None:
        """Registers the class; a subclass without `type` only shares fields."""
        if not type:
            return
        cls.TYPE, cls.VERSION, cls.OWNER = type, version, type.partition(".")[0]
        cls.AGGREGATE, cls.KEY = aggregate, key
        if not aggregate or key not in cls.model_fields:
            raise TypeError(f"{cls.__name__} must name its aggregate and a field that holds its id")
        if (type, version) in _KNOWN:
            raise TypeError(f"{type} v{version} is declared twice")
        _KNOWN[type, version] = cls
        if type not in _LATEST or version > _LATEST[type].VERSION:
            _LATEST[type] = cls

    @property
    def tenant(self) -> str | None:
        """Id of the tenant; None for events without one."""
        return getattr(self, "tenant_id", None)

    @property
    def aggregate_id(self) -> str:
        """`<kind>/<id>` of the aggregate."""
        return f"{self.AGGREGATE}/{getattr(self, self.KEY)}"


def canonical(value: object) -> bytes:
    """Returns JSON with sorted keys and no spaces, UTF-8: the only form that is hashed, stored and sent."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def digest(value: object) -> str:
    """Returns the SHA-256 of the canonical JSON of `value` (models are dumped first), as hex."""
    plain = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    return sha256(canonical(plain)).hexdigest()


@lru_cache(maxsize=4096)
def partition_of(tenant_id: str | None) -> int:
    """Returns the partition 0..15 of a tenant's events: permanent, so it is a hash of the id alone."""
    return 0 if tenant_id is None else sha256(tenant_id.encode()).digest()[0] % PARTITIONS


def encode(event: Event) -> bytes:
    """Returns the payload that is stored, sent and hashed."""
    return canonical(event.model_dump(mode="json"))


def decode(type_: str, version: int, payload: bytes) -> Event:
    """Returns the event in its latest version, through the upcasters.

    Raises UnknownEventError for an unregistered type or version, InvalidEventError for a payload of another schema.
    """
    latest = _LATEST.get(type_)
    if latest is None or version > latest.VERSION or version < 1:
        raise UnknownEventError(f"{type_} v{version} is not known here; upgrade this service or fix the type")
    if version < latest.VERSION:
        payload = _upcast(type_, version, latest.VERSION, payload)
    try:
        return latest.model_validate_json(payload)
    except ValidationError as error:
        raise InvalidEventError(f"{type_} v{version}: {explain(error)}") from error


def explain(error: ValidationError) -> str:
    """Returns the errors with their locations, without the values (they may be personal)."""
    return "; ".join(
        f"{'.'.join(str(part) for part in item['loc']) or 'payload'}: {plain_message(item)}"
        for item in error.errors()[:5]
    )


def _upcast(type_: str, version: int, target: int, payload: bytes) -> bytes:
    missing = [step for step in range(version, target) if (type_, step) not in _UPCASTERS]
    if missing:
        raise UnknownEventError(f"{type_} v{missing[0]} has no upcaster here; upgrade this service")
    try:
        fields = orjson.loads(payload)
        for step in range(version, target):
            fields = _UPCASTERS[type_, step](fields)
        return canonical(fields)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        # The payload is not validated yet, so an upcaster may raise any of these.
        raise InvalidEventError(f"{type_} v{version}: not the payload of this version") from error


def upcaster(type_: str, version: int) -> Callable[[U], U]:
    """Registers a pure function from the fields of `version` to those of `version + 1`."""

    def register(function: U) -> U:
        _UPCASTERS[type_, version] = function
        return function

    return register


def known_events() -> list[type[Event]]:
    """Returns every registered class, ordered by type and version."""
    return [_KNOWN[name] for name in sorted(_KNOWN)]


def latest_event(type_: str) -> type[Event]:
    """Returns the newest class of a type. Raises UnknownEventError."""
    if type_ not in _LATEST:
        raise UnknownEventError(f"{type_} is not a registered event type")
    return _LATEST[type_]
