"""Settings of the provisioner, in addition to those of every service."""

from importlib.resources import files
from pathlib import Path

import orjson
import yaml
from paybill_contracts.event import explain
from paybill_contracts.provisioner import Blueprint
from paybill_runtime.errors import ConfigurationError
from paybill_runtime.settings import ServiceSettings
from pydantic import ValidationError


class Settings(ServiceSettings):
    """blueprints_file: the blueprint in YAML; by default the one in this package.

    local_database_url: `postgresql://role@host:port/database` of the server with tenants' databases;
    local_database_password_file has its password. The role has CREATEDB and CREATEROLE and is no superuser, and no
    tenant may connect to that database. local_dir: parent of tenants' directories and of exports.
    """

    blueprints_file: Path | None = None
    local_database_url: str
    local_database_password_file: Path | None = None
    local_dir: Path

    def blueprint(self) -> Blueprint:
        """Returns the blueprint to publish. Raises ConfigurationError."""
        name = "blueprints.yaml" if self.blueprints_file is None else self.blueprints_file.name
        try:
            return read_blueprint((self.blueprints_file or files("paybill_provisioner") / name).read_bytes())
        except OSError as error:
            raise ConfigurationError(f"the blueprints file {name} cannot be read ({error.strerror})") from error
        except ValueError as error:
            raise ConfigurationError(f"{name}: {error}") from error


def read_blueprint(text: bytes) -> Blueprint:
    """Parses a blueprint in YAML, UTF-8. Raises ValueError."""
    try:
        document = orjson.dumps(yaml.safe_load(text))
        blueprint = Blueprint.model_validate_json(document)
    except ValidationError as error:
        raise ValueError(explain(error)) from error
    except (yaml.YAMLError, UnicodeDecodeError, TypeError) as error:
        raise ValueError(" ".join(str(error).split())) from error
    if orjson.loads(document) != blueprint.model_dump(mode="json"):
        raise ValueError("it has an unknown name; compare it with the blueprint in the package")
    return blueprint
