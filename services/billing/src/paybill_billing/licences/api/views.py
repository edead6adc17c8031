"""Request and response bodies of licences and signing keys."""

from typing import Annotated, Self

from paybill_contracts.catalogue import Feature, PlanRef
from paybill_contracts.inputs import PlainText
from paybill_contracts.licences import Purpose
from paybill_contracts.values import Digest, SubscriptionId, TenantId, Timestamp
from paybill_licence import MAX_SEATS, LicenceId
from pydantic import BaseModel, ConfigDict, Field

from paybill_billing.licences.domain import licence_keys
from paybill_billing.licences.domain.licence_keys import Keyring
from paybill_billing.licences.domain.licences import Licence, Status


class Body(BaseModel):
    """Request body. Unknown fields are refused, because they are usually misspelt."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class IssueBody(Body):
    """Terms of the licence. Renewals keep them."""

    seats: Annotated[
        int | None,
        Field(ge=0, le=MAX_SEATS, description="Number of machines; null to follow the subscription's quantity."),
    ] = None
    valid_days: Annotated[
        int | None, Field(ge=1, le=366, description="Validity of each revision; null for the service's setting.")
    ] = None


class ReasonBody(Body):
    """The reason of an action."""

    reason: Annotated[PlainText, Field(description="Kept in the log permanently: no personal data.")]


class RotateBody(ReasonBody):
    """The reason for a new key. `compromised` ends the trust in the active one."""

    compromised: Annotated[
        bool, Field(description="Remove the active key from the public keys: nothing that it signed verifies.")
    ] = False


class MachineBody(Body):
    """A machine, by the digest of its identity from `paybill_licence.licence.machine_digest`."""

    machine: Digest


class PendingView(BaseModel):
    """A requested revision that is not signed yet."""

    purpose: Purpose
    revision: int
    expires_at: Timestamp


class LicenceView(BaseModel):
    """A licence and its status. `dry_run`: the result of a change that was not made."""

    licence_id: LicenceId
    tenant_id: TenantId
    subscription_id: SubscriptionId
    status: Status
    revision: Annotated[int, Field(description="The newest requested revision.")]
    plan: PlanRef
    tier: str
    seats: int
    seats_used: int
    valid_s: int
    kid: Annotated[str | None, Field(description="The key that signed it; null until it is signed.")]
    issued_at: Timestamp | None
    expires_at: Timestamp | None
    renews_at: Annotated[Timestamp | None, Field(description="Null while a signature is pending, and when lapsing.")]
    pending: PendingView | None
    failure: Annotated[str | None, Field(description="Why signing failed, and the remedy.")]
    revoked: Annotated[str | None, Field(description="Why it was revoked.")]
    dry_run: bool

    @classmethod
    def of(cls, licence: Licence, *, dry_run: bool = False) -> Self:
        """Returns the response for `licence`."""
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
    """A licence with its features, its machines and its signed text."""

    licence: LicenceView
    features: list[Feature]
    activations: list[ActivationView]
    token: Annotated[str | None, Field(description="Null until it is signed, and after a revocation.")]

    @classmethod
    def of(cls, licence: Licence) -> Self:
        """Returns the complete response for `licence`."""
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
    """Licences ordered by id."""

    licences: list[LicenceView]
    next: Annotated[LicenceId | None, Field(description="Send it as `after` for the next page; null on the last.")]


class KeyView(BaseModel):
    """A key that signs licences or signed them in the past."""

    kid: str
    state: licence_keys.State
    published_at: Timestamp
    retire_at: Timestamp | None
    retired: Annotated[str | None, Field(description="Why it is no longer trusted.")]


class KeyringView(BaseModel):
    """All keys, the newest last. `being_made`: a new one is requested."""

    keys: list[KeyView]
    being_made: bool
    dry_run: bool

    @classmethod
    def of(cls, keyring: Keyring | None, *, dry_run: bool = False) -> Self:
        """Returns the response for the keys, without the references of private halves."""
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
            being_made=keyring is not None and keyring.request is not None,
            dry_run=dry_run,
        )
