"""Settings of the provisioner, in addition to those of every service."""

from importlib.resources import files
from pathlib import Path
from typing import Annotated

from paybill_contracts.blueprints import Blueprint
from paybill_contracts.policy import Policy
from paybill_definitions.blueprints_file import BlueprintFileError, read_blueprint
from paybill_definitions.policy_file import read_policy
from paybill_runtime.errors import ConfigurationError
from paybill_runtime.settings import ServiceSettings
from pydantic import Field


class Settings(ServiceSettings):
    """blueprints_file: the first blueprint in YAML; by default the one in this package. Later ones are published.

    local_database_url: `postgresql://role@host:port/database` of the server with tenants' databases;
    local_database_password_file has its password. The role has CREATEDB and CREATEROLE and is no superuser, and no
    tenant may connect to that database. local_dir: parent of tenants' directories and of exports. isolation_every_s:
    period of the isolation checks of all cells. isolation_trusted_s: time in which a new tenant requires no other check
    of a cell, at most one period; 0 checks for each tenant. drift_every_s: period in which every environment is
    compared with what exists. drift_calls_per_s: calls that these checks make of each provider in a second.
    tenant_statement_s, tenant_idle_transaction_s: longest statement of a tenant, and longest time that its transaction
    may be idle; sessions beyond it are ended.
    """

    blueprints_file: Path | None = None
    local_database_url: str
    local_database_password_file: Path | None = None
    local_dir: Path
    isolation_every_s: Annotated[float, Field(gt=0, le=86_400)] = 60
    isolation_trusted_s: Annotated[float, Field(ge=0)] = 60
    drift_every_s: Annotated[float, Field(gt=0, le=604_800)] = 3600
    drift_calls_per_s: Annotated[float, Field(gt=0, le=1000)] = 20
    tenant_statement_s: Annotated[float, Field(gt=0, le=86_400)] = 300
    tenant_idle_transaction_s: Annotated[float, Field(gt=0, le=86_400)] = 60

    def policy(self) -> Policy:
        """Returns the policy to publish first: the one in this package."""
        return read_policy(
            files("paybill_provisioner").joinpath("policy.yaml").read_text("utf-8"), "policy.yaml"
        ).content

    def blueprint(self) -> Blueprint:
        """Returns the blueprint to publish first. Raises ConfigurationError."""
        name = "blueprints.yaml" if self.blueprints_file is None else self.blueprints_file.name
        try:
            text = (self.blueprints_file or files("paybill_provisioner") / name).read_text(encoding="utf-8")
            return read_blueprint(text, name).content
        except OSError as error:
            raise ConfigurationError(f"the blueprints file {name} cannot be read ({error.strerror})") from error
        except (BlueprintFileError, UnicodeDecodeError) as error:
            raise ConfigurationError(str(error)) from error
