"""Settings of billing, in addition to those of every service."""

import json
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from paybill_contracts.accounts import LeftoverAction
from paybill_contracts.billing import PublisherGrant
from paybill_contracts.validation_messages import plain_message
from paybill_contracts.values import Key, TenantId
from paybill_runtime.errors import ConfigurationError
from paybill_runtime.http.strict_json import JsonError, read_json
from paybill_runtime.settings import ServiceSettings, read_secret
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError
from pydantic_settings import NoDecode

EVERY_TENANT = "*"


def _from_json(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        raise ValueError('not valid JSON; write {"name": {}}, with the provider\'s settings') from None


class Settings(ServiceSettings):
    """catalogue_file: plans.yaml for the first start; the file in this package when it is not set.

    providers: JSON with the settings of each third-party provider, such as
    `{"acmepay": {"region": "eu", "api_key_file": "/run/secrets/acmepay"}}`; names in `_file` are paths of secrets.
    default_provider: for sign-ups that name none. manual_offer_url: page that shows an offer to a customer who pays by
    invoice; the offer's id is appended.
    stripe_api_key_file: without it Stripe is not configured. stripe_api_base: empty for Stripe itself.
    stripe_requests_per_s: maximum request rate; the default is Stripe's limit for one endpoint
    (https://docs.stripe.com/rate-limits), which Stripe raises on request.
    stripe_webhook_secrets_file: one secret a line, all of them active, so that a secret can be rolled; without it the
    webhook route does not exist. stripe_livemode: mode of the accepted messages; that of the API key when it is not
    set. stripe_events_every_s: interval at which all events are fetched, for an installation that no webhook can reach.
    stripe_account: our account id, when messages of other accounts may arrive.
    publishers_file: JSON, `{"<publisher>": {"tenants": ["*"]}}` or tenants' ids; without it no usage is accepted.
    licence_valid_s: default validity of a licence; it is renewed when a third is left.
    checkout_return_url: page that the provider opens after the checkout.
    changes_while_overdue: policy for a change of plan or quantity now while the period is not paid, for any reason:
    `refused`, or `without_proration`.
    sales_with_debt: whether a customer that owes something gets another checkout.
    leftovers: what happens to objects that could charge the customer of a tenant that left.
    statement_delay_s: time from the last message about an invoice to the check of its customer's statement.
    webhook_retention_days: time until a processed message is deleted; longer than the redelivery poll looks back.
    sweep_every_s: interval of the redelivery poll. reconcile_every_s: interval of the reconciliation of all
    subscriptions.
    """

    licence_valid_s: Annotated[int, Field(ge=1, le=366 * 86_400)] = 30 * 86_400
    catalogue_file: Path | None = None
    providers: Annotated[dict[Key, dict[str, str]], NoDecode, BeforeValidator(_from_json)] = Field(default_factory=dict)
    default_provider: Key = "stripe"
    manual_offer_url: Annotated[str, StringConstraints(pattern=r"^https?://\S+$")] = "http://127.0.0.1/offers/"
    stripe_api_key_file: Path | None = None
    stripe_api_base: Annotated[str, StringConstraints(pattern=r"^(https?://\S+)?$")] = ""
    stripe_requests_per_s: Annotated[float, Field(gt=0, le=10_000)] = 25.0
    stripe_webhook_secrets_file: Path | None = None
    stripe_livemode: bool | None = None
    stripe_events_every_s: Annotated[float | None, Field(ge=1, le=3600)] = None
    stripe_account: Annotated[str, StringConstraints(pattern=r"^acct_[A-Za-z0-9]{1,100}$")] | None = None
    publishers_file: Path | None = None
    checkout_return_url: Annotated[str, StringConstraints(pattern=r"^https?://\S+$")] = "http://127.0.0.1/"

    changes_while_overdue: Literal["refused", "without_proration"] = "refused"

    sales_with_debt: Literal["allowed", "refused"] = "allowed"
    leftovers: LeftoverAction = LeftoverAction.CANCEL
    statement_delay_s: Annotated[float, Field(ge=0, le=86_400)] = 60.0
    webhook_retention_days: Annotated[float, Field(ge=35, le=3650)] = 90.0
    sweep_every_s: Annotated[float, Field(gt=0, le=86_400)] = 300.0
    reconcile_every_s: Annotated[float, Field(gt=0, le=30 * 86_400)] = 86_400.0

    def stripe_api_key(self) -> str:
        """Returns the key. Raises ConfigurationError when the file is empty."""
        key = read_secret(self.stripe_api_key_file)
        if not key:
            name = self.stripe_api_key_file.name if self.stripe_api_key_file else "stripe_api_key_file"
            raise ConfigurationError(f"{name} is empty; write Stripe's secret key into it")
        return key

    def stripe_is_live(self) -> bool | None:
        """Returns the mode of accepted messages; None when neither the setting nor the API key determines it."""
        modes = {"live": True, "test": False}
        mode = self.stripe_api_key().split("_")[1:2]
        return self.stripe_livemode if self.stripe_livemode is not None else modes.get("".join(mode))

    def stripe_webhook_secrets(self) -> tuple[str, ...]:
        """Returns the active secrets; without one, no webhook can be verified."""
        lines = read_secret(self.stripe_webhook_secrets_file).splitlines()
        return tuple(line.strip() for line in lines if line.strip())

    def publisher_grants(self) -> list[PublisherGrant]:
        """Returns the grants of the publishers file. Raises ConfigurationError."""
        if self.publishers_file is None:
            return []
        try:
            content = self.publishers_file.read_bytes()
            read_json(content)
            grants = _PUBLISHERS.validate_json(content)
        except OSError as error:
            raise ConfigurationError(f"the publishers file cannot be read: {error.strerror}") from error
        except JsonError as error:
            raise ConfigurationError(f"{self.publishers_file.name}: {error}") from None
        except ValidationError as error:
            first = error.errors()[0]
            raise ConfigurationError(
                f"{self.publishers_file.name}: {json.dumps(first['loc'])}: {plain_message(first)}"
            ) from error
        return [
            PublisherGrant(
                publisher=name,
                all_tenants=EVERY_TENANT in grant.tenants,
                tenants=tuple(sorted(set(grant.tenants) - {EVERY_TENANT})),
            )
            for name, grant in grants.items()
        ]


class _Grant(BaseModel):
    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    tenants: list[TenantId | Annotated[str, Field(pattern=r"^\*$")]]


_PUBLISHERS = TypeAdapter(dict[Key, _Grant])
