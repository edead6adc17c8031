"""HTTP API for API keys: create, list, show and revoke them."""

from datetime import datetime, timedelta
from enum import StrEnum
from functools import partial
from http import HTTPStatus
from secrets import token_hex
from typing import Annotated, Self

from fastapi import APIRouter, Depends, Path, Query, Response
from paybill_contracts.api_keys import KeyCreated, KeyId, KeyRole, Scopes, Subject
from paybill_contracts.values import Key, Timestamp
from paybill_runtime.decisions.context import ServiceContext
from paybill_runtime.decisions.unit_of_work import DecisionContext, UnitOfWork
from paybill_runtime.http import auth
from paybill_runtime.http.auth import Role, make_key
from paybill_runtime.http.caller import Caller, caller
from paybill_runtime.http.listing import Limit, load_page, load_state
from paybill_runtime.http.router import Router
from paybill_runtime.messaging.api_key_copies import accept, add_copy, revoke_copy
from pydantic import BaseModel, ConfigDict, Field, model_validator
from sqlmodel import col

from paybill_tenant.domain import api_keys
from paybill_tenant.domain.api_keys import ApiKey, Rights, existing
from paybill_tenant.tables import API_KEYS, ApiKeyRow

AdminViewer = Annotated[Caller, Depends(caller(Role.ADMIN, "tenant:read"))]
Admin = Annotated[Caller, Depends(caller(Role.ADMIN, "tenant:write"))]
IdOfKey = Annotated[KeyId, Path(description="The key's id: the part of the key between `pbk_` and the last `_`.")]


class KeyStatus(StrEnum):
    """Acceptance of a key."""

    ACTIVE = "active"
    EXPIRED = "expired"
    REVOKED = "revoked"


class KeySource(StrEnum):
    """Origin of a key. FILE: the file of keys of the installation, which no command changes."""

    FILE = "file"
    COMMAND = "command"


class KeyBody(BaseModel):
    """Request for a new key."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[Key, Field(description="Names the purpose; kept in the log permanently: no personal data.")]
    subject: Annotated[
        Subject,
        Field(
            description="Who uses the key: `user:…` for a person, `service:…` for a program. Two keys with the same "
            "subject are one person. An identifier of an employee, kept in the log permanently."
        ),
    ]
    role: Annotated[KeyRole, Field(description="At most the role of the key that sends this.")]
    scopes: Annotated[Scopes, Field(description="`<service>:read`, `<service>:write`, or `*`; at most one's own.")]
    expires_at: Annotated[Timestamp | None, Field(description="From then on the key is refused; within 366 days.")] = (
        None
    )
    lifetime_s: Annotated[
        int | None, Field(ge=1, le=10**9, description="In place of `expires_at`: seconds until the key is refused.")
    ] = None

    @model_validator(mode="after")
    def _has_one_end(self) -> Self:
        if (self.expires_at is None) == (self.lifetime_s is None):
            raise ValueError("name either expires_at or lifetime_s")
        return self

    def end(self, now: datetime) -> datetime:
        """Returns the end of a key that is created now."""
        return self.expires_at if self.expires_at is not None else now + timedelta(seconds=self.lifetime_s or 0)


class KeyView(BaseModel):
    """An API key without its secret."""

    id: KeyId
    name: str
    subject: Subject
    role: KeyRole
    scopes: list[str]
    status: KeyStatus
    source: KeySource
    expires_at: Timestamp
    created_by: Annotated[Subject | None, Field(description="Null for a key of the file.")]
    created_at: Annotated[Timestamp | None, Field(description="Null for a key of the file.")]
    revoked_by: Subject | None
    revoked_at: Timestamp | None

    @classmethod
    def of(cls, key: ApiKey, now: datetime) -> Self:
        """Builds the view of a key that was created by command."""
        status = KeyStatus.ACTIVE if now < key.expires_at else KeyStatus.EXPIRED
        return cls(
            id=key.id,
            name=key.name,
            subject=key.subject,
            role=key.role,
            scopes=list(key.scopes),
            status=status if key.revoked_at is None else KeyStatus.REVOKED,
            source=KeySource.COMMAND,
            expires_at=key.expires_at,
            created_by=key.created_by,
            created_at=key.created_at,
            revoked_by=key.revoked_by,
            revoked_at=key.revoked_at,
        )

    @classmethod
    def of_file(cls, key: auth.ApiKey, now: datetime) -> Self:
        """Builds the view of a key of the file."""
        return cls(
            id=key.id,
            name=key.name,
            subject=key.subject,
            role=key.role,
            scopes=list(key.scopes),
            status=KeyStatus.ACTIVE if now < key.expires_at else KeyStatus.EXPIRED,
            source=KeySource.FILE,
            expires_at=key.expires_at,
            created_by=None,
            created_at=None,
            revoked_by=None,
            revoked_at=None,
        )


class NewKeyView(KeyView):
    """A new key. key: the key itself, in this response alone; null when an Idempotency-Key was used again."""

    key: str | None


class KeyPage(BaseModel):
    """Keys of the file, then the others in the order of their ids."""

    keys: list[KeyView]
    next: Annotated[KeyId | None, Field(description="Send it as `after` for the next page; null on the last.")]


def router(context: ServiceContext) -> APIRouter:
    """Returns the routes of API keys."""
    routes = Router(prefix="/v1/keys", tags=["keys"])

    @routes.post("", status_code=HTTPStatus.CREATED)
    async def create(body: KeyBody, principal: Admin, response: Response) -> NewKeyView:
        """Creates an API key. The response alone has the key; every service accepts it within a second.

        With an `Idempotency-Key` a repeated request creates no second key, and its response has no `key`: revoke the
        key if the first response was lost. Refused with `key_exceeds_rights`, `unknown_scope` or
        `key_expiry_out_of_range`.
        """
        now = context.now()
        id_, end = f"key-{token_hex(8)}", body.end(now)
        made = make_key(id_, body.name, Role[body.role.name], body.scopes, end, body.subject)
        fact = KeyCreated(
            key_id=id_,
            name=body.name,
            subject=body.subject,
            role=body.role,
            scopes=body.scopes,
            sha256=made.stored["sha256"],
            created_by=principal.subject,
            created_at=now,
            expires_at=end,
        )
        rights = Rights(KeyRole[principal.role.name], principal.scopes)

        def decide(unit: UnitOfWork, at: DecisionContext) -> KeyView:
            unit.record(API_KEYS, id_, api_keys.create(fact, rights, at.now))
            return KeyView.of(existing(unit.get(API_KEYS, id_), id_), at.now)

        view = await context.decide(
            principal.origin,
            decide,
            writes=[API_KEYS.key(id_)],
            extra_statements=partial(add_copy, fact=fact),
            verb="create_key",
            target=body.subject,
            idempotency=principal.idempotency,
            response_type=KeyView,
        )
        is_new = view.id == id_
        if is_new:
            accept(context.key_ring, fact)
        response.headers["Location"] = f"/v1/keys/{view.id}"
        return NewKeyView(**view.model_dump(), key=made.raw if is_new else None)

    @routes.get("")
    async def show_all(
        _: AdminViewer,
        subject: Annotated[Subject | None, Query(description="Only keys of this person or program.")] = None,
        after: Annotated[
            KeyId | None, Query(description="Only ids after this one: `next` of the previous page.")
        ] = None,
        limit: Limit = 50,
    ) -> KeyPage:
        """Lists API keys, also expired and revoked ones. The first page begins with the keys of the file."""
        now = context.now()
        in_file = [] if after is not None else context.key_ring.in_file()
        keys = [KeyView.of_file(key, now) for key in in_file if subject in {None, key.subject}]
        of_subject = [] if subject is None else [col(ApiKeyRow.state)["subject"].astext == subject]
        page, next_ = await load_page(context, API_KEYS, after, limit, *of_subject)
        return KeyPage(keys=[*keys, *(KeyView.of(key, now) for key in page)], next=next_)

    @routes.get("/{key}")
    async def show(key: IdOfKey, _: AdminViewer) -> KeyView:
        """Shows an API key."""
        now = context.now()
        for each in context.key_ring.in_file():
            if each.id == key:
                return KeyView.of_file(each, now)
        return KeyView.of(existing(await load_state(context, API_KEYS, key), key), now)

    @routes.post("/{key}/revoke")
    async def revoke(key: IdOfKey, principal: Admin) -> KeyView:
        """Revokes an API key: every service refuses it within a second. It cannot be undone.

        Refused with `key_in_file` for a key of the file, and with `key_not_found`.
        """
        in_file = {each.id for each in context.key_ring.in_file()}

        def decide(unit: UnitOfWork, at: DecisionContext) -> KeyView:
            state = existing(unit.get(API_KEYS, key), key, in_file)
            unit.record(API_KEYS, key, api_keys.revoke(state, principal.subject, at.now))
            return KeyView.of(existing(unit.get(API_KEYS, key), key), at.now)

        view = await context.decide(
            principal.origin,
            decide,
            writes=[API_KEYS.key(key)],
            extra_statements=lambda statement: revoke_copy(statement, key),
            verb="revoke_key",
            target=key,
            idempotency=principal.idempotency,
            response_type=KeyView,
        )
        context.key_ring.revoke(key)
        return view

    return routes
