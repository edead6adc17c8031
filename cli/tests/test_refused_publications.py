"""Exit codes of a refused `paybill blueprint publish` on a real stack; the blueprint in force stays."""

from importlib.resources import files

import pytest
from paybill_cli.exit_codes import ExitCode

SHIPPED = files("paybill_provisioner").joinpath("blueprints.yaml").read_text()


def version_in_force(on_stack) -> int:
    return int(on_stack("blueprint", "show", "standard", "--json").data["content"]["version"])


@pytest.fixture
def publish(on_stack, tmp_path):
    """Returns a command that publishes the shipped blueprint with a replaced part."""

    def published(old, new, *arguments, **environment):
        assert old in SHIPPED
        file = tmp_path / "blueprints.yaml"
        file.write_text(SHIPPED.replace(old, new))
        return on_stack("blueprint", "publish", file, "--yes", "--json", *arguments, **environment)

    return published


@pytest.mark.parametrize(
    ("old", "new", "code", "exit_code"),
    [
        ("placement: pooled", "placement: moon", "invalid_blueprint", ExitCode.USAGE),
        ("type: jsonb", "type: text", "invalid_blueprint", ExitCode.CONFLICT),
        ("connection_limit: 10", "connection_limit: 11", "blueprint_version_conflict", ExitCode.CONFLICT),
    ],
    ids=["wrong", "changed type", "same version"],
)
def test_a_refused_blueprint_has_an_exit_code_and_changes_nothing(on_stack, publish, old, new, code, exit_code) -> None:
    before = version_in_force(on_stack)
    done = publish(old, new)

    assert (done.code, done.error["code"]) == (exit_code, code), done.err
    assert version_in_force(on_stack) == before


def test_a_blueprint_is_published_by_a_person_with_a_key_only(on_stack, publish) -> None:
    before = version_in_force(on_stack)
    done = publish("connection_limit: 10", "connection_limit: 11", PAYBILL_API_KEY="pbk_unknown")

    assert done.code == ExitCode.DENIED, done.err
    assert version_in_force(on_stack) == before
