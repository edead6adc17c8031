"""Bundles of the example, as tests of the agent gateway publish them."""

from pathlib import Path

from paybill_contracts.agent_bundles import Bundle
from paybill_contracts.blueprints import BlueprintPublished
from paybill_contracts.event import digest
from paybill_definitions.agent_bundle import read_bundle
from paybill_definitions.blueprints_file import read_blueprint

EXAMPLE = Path(__file__).parents[3] / "examples/support-agent"
BLUEPRINT = read_blueprint((EXAMPLE / "blueprints.yaml").read_text(encoding="utf-8"), "blueprints.yaml").content
FILES = {path.name: path.read_text(encoding="utf-8") for path in sorted((EXAMPLE / "agents").iterdir())}
SMALLER = FILES | {"grants.cedar": FILES["grants.cedar"].replace("<= 5000", "<= 3000")}


def bundle(files: dict[str, str] = FILES) -> Bundle:
    """Returns the bundle of these files."""
    return read_bundle(files, BLUEPRINT)


def blueprint_published(**changes: object) -> BlueprintPublished:
    """Returns the fact of the provisioner about the example's blueprint with some changes."""
    content = BLUEPRINT.model_copy(update=changes)
    return BlueprintPublished(blueprint="main", content=content, content_hash=digest(content))
