"""What the environment decides for the provisioner, beside what it decides for every service."""

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
    """blueprints_file: the blueprint in YAML; the one in this package when it is not set.

    local_database_url: `postgresql://role@host:port/database` of the server that holds tenants' databases, with its
    password in the file beside it; the role has CREATEDB and CREATEROLE and is no superuser, and no tenant may enter
    that database. local_dir: below it lie tenants' folders and exports.
    """

    blueprints_file: Path | None = None
    local_database_url: str
    local_database_password_file: Path | None = None
    local_dir: Path

    def blueprint(self) -> Blueprint:
        """The blueprint to put in force. Raises ConfigurationError."""
        name = "blueprints.yaml" if self.blueprints_file is None else self.blueprints_file.name
        try:
            return read_blueprint((self.blueprints_file or files("paybill_provisioner") / name).read_bytes())
        except OSError as error:
            raise ConfigurationError(f"the blueprints file {name} cannot be read ({error.strerror})") from error
        except ValueError as error:
            raise ConfigurationError(f"{name}: {error}") from error


def read_blueprint(text: bytes) -> Blueprint:
    """The blueprint that `text`, YAML in UTF-8, says. Raises ValueError."""
    try:
        said = orjson.dumps(yaml.safe_load(text))
        blueprint = Blueprint.model_validate_json(said)
    except ValidationError as error:
        raise ValueError(explain(error)) from error
    except (yaml.YAMLError, UnicodeDecodeError, TypeError) as error:
        raise ValueError(" ".join(str(error).split())) from error
    if orjson.loads(said) != blueprint.model_dump(mode="json"):
        raise ValueError("it has a word that a blueprint has no meaning for; compare it with the one in the package")
    return blueprint
