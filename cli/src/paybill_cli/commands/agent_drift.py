"""Drift of agents' bundles: differences from the blueprint in force and from the live tables of each tenant."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from paybill_cli.client.http import Service, get_or_none
from paybill_cli.client.stack import Stack
from paybill_cli.errors import CliError
from paybill_cli.exit_codes import ExitCode
from paybill_cli.output import Output, as_json

if TYPE_CHECKING:
    from paybill_contracts.agent_bundles import Bundle

DRIFT = ("where", "table", "difference")
PAGE_TIMEOUT_S = 60.0
"""Of a page of tenants, whose databases may not answer."""


def drift(out: Output, stack: Stack, bundle: "Bundle") -> list[dict[str, str]]:
    """Returns the differences between a bundle, the blueprint in force and live tables; none without a stack."""
    try:
        found = [*_of_blueprint(stack, bundle), *of_tables(stack, bundle.model_dump(mode="json"))]
    except CliError as error:
        if not is_away(error):
            raise
        out.info(f"not compared with a stack: {error.message}; live tables were not compared")
        return []
    out.info(f"compared with the stack at {stack.url('provisioner')}: its blueprint in force and its live tables")
    return found


def is_away(error: CliError) -> bool:
    """Returns whether there is no stack to compare with: none answers, or no key is set to call it with."""
    return error.exit_code is ExitCode.UNREACHABLE or error.code == "no_key"


def of_tables(stack: Stack, content: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    """Yields the differences of tenants' live tables from a bundle in canonical form, and who could not be compared."""
    after: str | None = None
    with Service(stack, "agent-gateway", timeout_s=PAGE_TIMEOUT_S) as gateway:
        while True:
            page = gateway.post("/v1/bundles/drift", {"content": content, "after": after})
            for each in page["differences"]:
                yield {"where": f"tenant {each['slug']}", "table": each["table"], "difference": each["difference"]}
            for each in page["unknown"]:
                difference = f"unknown: {each['code']}; repeat the check when the tenant's database answers"
                yield {"where": f"tenant {each['slug']}", "table": "", "difference": difference}
            after = page["next"]
            if after is None:
                return


def _of_blueprint(stack: Stack, bundle: "Bundle") -> Iterator[dict[str, str]]:
    from paybill_contracts.blueprints import Blueprint
    from paybill_definitions.agent_drift import drift as differences

    name = bundle.blueprint.name
    with Service(stack, "provisioner") as provisioner:
        found = get_or_none(provisioner, f"/v1/blueprints/{name}")
        recorded, _ = provisioner.list_rows("/v1/drift", "differences", {})
    if found is None:
        reason = f"{name} is not in force; first: paybill blueprint publish blueprints.yaml"
        yield {"where": f"blueprint {name}", "table": "", "difference": reason}
        return
    for each in differences(bundle, Blueprint.model_validate_json(as_json(found["content"]))):
        table = each.path[1] if len(each.path) > 1 else ""
        yield {"where": f"blueprint {name}", "table": str(table), "difference": each.reason}
    for row in recorded:
        if row["resource"] == "schema" and row["accepted"] is None:
            values = f"{row['observed'] or 'nothing'} instead of {row['expected'] or 'nothing'}"
            place = row["attribute"] or row["name"]
            yield {"where": f"environment of {row['slug']}", "table": "", "difference": f"{place} is {values}"}
