"""What the environment decides for billing, beside what it decides for every service."""

import json
from pathlib import Path
from typing import Annotated, ClassVar

from paybill_contracts.billing import PublisherGrant
from paybill_contracts.values import Key, TenantId
from paybill_runtime.errors import ConfigurationError
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
        raise ValueError('this is no JSON; write {"name": {}}, with the provider\'s settings') from None


class Settings(ServiceSettings):
    """catalogue_file: plans.yaml, read when nothing was ever published; the one in this package when it is not set.

    providers: JSON, those of third parties that are used, each with settings of its own, such as
    `{"acmepay": {"region": "eu", "api_key_file": "/run/secrets/acmepay"}}`; what ends in `_file` is a secret's path.
    default_provider: where a tenant pays that does not say how. manual_offer_url: where customers who pay by invoice
    read their offer; its id follows.
    stripe_api_key_file: without it there is no Stripe. stripe_api_base: empty for Stripe itself. stripe_requests_per_s:
    how often it is asked at most; the default is its limit for one endpoint (https://docs.stripe.com/rate-limits),
    which it raises for who asks.
    stripe_webhook_secrets_file: one secret a line, all of them active, so that a secret can be rolled; without it the
    webhook's address does not exist. stripe_livemode: whether its messages are of live mode; what the API key says when
    it is not set. stripe_account: our account, when messages of others may come too.
    publishers_file: JSON, `{"<publisher>": {"tenants": ["*"]}}` or tenants' ids; without it nobody reports usage.
    licence_valid_s: how long a licence lasts that is issued without saying so; it is renewed when a third is left.
    checkout_return_url: where the provider sends people after the checkout.
    sweep_every_s: how often a provider is asked for messages that it could not deliver. reconcile_every_s: how often
    all its subscriptions are compared with ours.
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
    stripe_account: Annotated[str, StringConstraints(pattern=r"^acct_[A-Za-z0-9]{1,100}$")] | None = None
    publishers_file: Path | None = None
    checkout_return_url: Annotated[str, StringConstraints(pattern=r"^https?://\S+$")] = "http://127.0.0.1/"

    sweep_every_s: Annotated[float, Field(gt=0, le=86_400)] = 300.0
    reconcile_every_s: Annotated[float, Field(gt=0, le=30 * 86_400)] = 86_400.0

    def stripe_api_key(self) -> str:
        """Raises ConfigurationError when the file is empty."""
        key = read_secret(self.stripe_api_key_file)
        if not key:
            name = self.stripe_api_key_file.name if self.stripe_api_key_file else "stripe_api_key_file"
            raise ConfigurationError(f"{name} is empty; write Stripe's secret key into it")
        return key

    def stripe_is_live(self) -> bool | None:
        """Whether Stripe's messages are to be of live mode; None when nothing says so."""
        modes = {"live": True, "test": False}
        mode = self.stripe_api_key().split("_")[1:2]
        return self.stripe_livemode if self.stripe_livemode is not None else modes.get("".join(mode))

    def stripe_webhook_secrets(self) -> tuple[str, ...]:
        """All that are active; none means that no webhook can be told from a forged one."""
        lines = read_secret(self.stripe_webhook_secrets_file).splitlines()
        return tuple(line.strip() for line in lines if line.strip())

    def publisher_grants(self) -> list[PublisherGrant]:
        """Who may report usage. Raises ConfigurationError."""
        if self.publishers_file is None:
            return []
        try:
            written = _PUBLISHERS.validate_json(self.publishers_file.read_bytes())
        except OSError as error:
            raise ConfigurationError(f"the publishers file cannot be read: {error.strerror}") from error
        except ValidationError as error:
            raise ConfigurationError(
                f"{self.publishers_file.name}: {json.dumps(error.errors()[0]['loc'])}: {error.errors()[0]['msg']}"
            ) from error
        return [
            PublisherGrant(
                publisher=name,
                all_tenants=EVERY_TENANT in grant.tenants,
                tenants=tuple(sorted(set(grant.tenants) - {EVERY_TENANT})),
            )
            for name, grant in written.items()
        ]


class _Grant(BaseModel):
    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    tenants: list[TenantId | Annotated[str, Field(pattern=r"^\*$")]]


_PUBLISHERS = TypeAdapter(dict[Key, _Grant])
