"""What callers send about licences, and what they are shown."""

from typing import Annotated, Self

from paybill_contracts.catalogue import Feature, PlanRef
from paybill_contracts.licences import Purpose
from paybill_contracts.values import Digest, SubscriptionId, TenantId, Text, Timestamp
from paybill_licence import MAX_SEATS, LicenceId
from pydantic import BaseModel, ConfigDict, Field

from paybill_billing.licences.domain import licence_keys
from paybill_billing.licences.domain.licence_keys import Keyring
from paybill_billing.licences.domain.licences import Licence, Status


class Body(BaseModel):
    """What a caller sends: a field that we do not know is a mistake, and said to be one."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class IssueBody(Body):
    """What the licence is to be. Both are kept when it is renewed."""

    seats: Annotated[
        int | None, Field(ge=0, le=MAX_SEATS, description="Machines; null to follow the subscription's quantity.")
    ] = None
    valid_days: Annotated[
        int | None, Field(ge=1, le=366, description="How long each lasts; null for what the service is set to.")
    ] = None


class ReasonBody(Body):
    """Why."""

    reason: Annotated[Text, Field(description="Kept in the log for ever: no personal data.")]


class RotateBody(ReasonBody):
    """Why there is to be a new key, and whether the one in use may still be trusted."""

    compromised: Annotated[
        bool, Field(description="Take the key in use from the public keys at once: nothing that it signed verifies.")
    ] = False


class MachineBody(Body):
    """A machine, by the digest that `paybill_licence.machine_digest` makes of what identifies it."""

    machine: Digest


class PendingView(BaseModel):
    """What is being signed."""

    purpose: Purpose
    revision: int
    expires_at: Timestamp


class LicenceView(BaseModel):
    """A licence and where it stands. `dry_run`: it would be so; nothing was changed."""

    licence_id: LicenceId
    tenant_id: TenantId
    subscription_id: SubscriptionId
    status: Status
    revision: Annotated[int, Field(description="The newest that was asked for.")]
    plan: PlanRef
    tier: str
    seats: int
    seats_used: int
    valid_s: int
    kid: Annotated[str | None, Field(description="The key that signed it; null until it is signed.")]
    issued_at: Timestamp | None
    expires_at: Timestamp | None
    renews_at: Annotated[Timestamp | None, Field(description="Null while it is being signed, and once it lapses.")]
    pending: PendingView | None
    failure: Annotated[str | None, Field(description="Why it could not be signed, and what to do.")]
    revoked: Annotated[str | None, Field(description="Why it was revoked.")]
    dry_run: bool

    @classmethod
    def of(cls, licence: Licence, *, dry_run: bool = False) -> Self:
        """What is shown of `licence`."""
        claims, pending = licence.claims, licence.pending
        return cls(
            licence_id=licence.id,
            tenant_id=licence.tenant_id,
            subscription_id=licence.subscription_id,
            status=licence.status,
            revision=licence.revision,
            plan=licence.terms.plan,
            tier=licence.terms.tier,
            seats=licence.terms.seats,
            seats_used=len(licence.activations),
            valid_s=licence.valid_s,
            kid=claims.kid if claims is not None else None,
            issued_at=claims.issued_at if claims is not None else None,
            expires_at=claims.expires_at if claims is not None else None,
            renews_at=licence.due,
            pending=PendingView(purpose=pending.purpose, revision=pending.revision, expires_at=pending.expires_at)
            if pending is not None
            else None,
            failure=licence.failure,
            revoked=licence.revoked,
            dry_run=dry_run,
        )


class ActivationView(BaseModel):
    """A machine that uses a seat."""

    machine: Digest
    activated_at: Timestamp
    seen_at: Timestamp


class WholeLicenceView(BaseModel):
    """A licence, what it entitles to, its machines, and the text that its holder gets."""

    licence: LicenceView
    features: list[Feature]
    activations: list[ActivationView]
    token: Annotated[str | None, Field(description="Null until it is signed, and once it is revoked.")]

    @classmethod
    def of(cls, licence: Licence) -> Self:
        """All that is shown of `licence`."""
        return cls(
            licence=LicenceView.of(licence),
            features=list(licence.terms.features),
            activations=[
                ActivationView(machine=each.machine, activated_at=each.activated_at, seen_at=each.seen_at)
                for each in licence.activations
            ],
            token=licence.token,
        )


class LicencePage(BaseModel):
    """Licences in the order of their ids."""

    licences: list[LicenceView]
    next: Annotated[LicenceId | None, Field(description="Send it as `after` for the next page; null on the last.")]


class KeyView(BaseModel):
    """A key that signs, or signed, licences."""

    kid: str
    state: licence_keys.State
    published_at: Timestamp
    retire_at: Timestamp | None
    retired: Annotated[str | None, Field(description="Why it is trusted no more.")]


class KeyringView(BaseModel):
    """All keys, the newest last. `being_made`: a new one was asked for."""

    keys: list[KeyView]
    being_made: bool
    dry_run: bool

    @classmethod
    def of(cls, keyring: Keyring | None, *, dry_run: bool = False) -> Self:
        """What is shown of the keys: never where a private half is."""
        keys = keyring.keys if keyring is not None else ()
        return cls(
            keys=[
                KeyView(
                    kid=key.kid,
                    state=key.state,
                    published_at=key.published_at,
                    retire_at=key.retire_at,
                    retired=key.retired,
                )
                for key in keys
            ],
            being_made=keyring is not None and keyring.wanted is not None,
            dry_run=dry_run,
        )
