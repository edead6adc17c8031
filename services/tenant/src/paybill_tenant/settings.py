"""Settings of the tenant service, in addition to those of every service."""

from typing import Annotated

from paybill_runtime.settings import ServiceSettings
from pydantic import Field


class Settings(ServiceSettings):
    """offboarding_delay_s: time from the end of a tenant's last subscription until its offboarding.

    A subscription that gives access meanwhile prevents it. signup_valid_s: time after which a sign-up without a
    subscription is abandoned, and its slug is free again. contact_days: days for which two sign-ups with one address
    count as the same customer, who has one trial of a plan; 0 makes no digests, and every sign-up has its trial.
    """

    offboarding_delay_s: Annotated[int, Field(ge=0, le=90 * 86_400)] = 15 * 60
    signup_valid_s: Annotated[int, Field(ge=1, le=3650 * 86_400)] = 30 * 86_400
    contact_days: Annotated[int, Field(ge=0, le=3650)] = 400
