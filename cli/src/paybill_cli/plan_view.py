"""A plan of an environment as lines for people: steps, cost, duration, risks, approval, and the next command."""

from collections.abc import Iterator, Mapping
from typing import Any

from paybill_cli import formatting

Line = tuple[str, str]
"""Style and text of a line; the style is empty for plain text."""

_SIGNS = {"create": "+", "adopt": "=", "update": "~", "rebuild": "*", "replace": "±", "delete": "-"}
_STYLES = {
    "create": "green",
    "adopt": "cyan",
    "update": "yellow",
    "rebuild": "magenta",
    "replace": "magenta",
    "delete": "red",
}
_MS = 1000


def plan_lines(plan: Mapping[str, Any], tenant: str) -> Iterator[Line]:
    """Yields the lines of a plan. tenant: as people name it."""
    book = plan["price_book"] or "none"
    site = f"{plan['cloud']}/{plan['region']}  epoch {plan['epoch']}  base revision {plan['based_on']}"
    inputs = f"blueprint {plan['blueprint']}  price book {book}"
    yield "bold", f"{tenant}  {plan['environment_id']}  {site}  {inputs}"
    yield "", f"plan {plan['hash']}  {_handling(plan)}"
    if not plan["steps"]:
        yield "", "  no changes: what is built is what the tenant is entitled to"
    replaced = {each["address"] for each in plan["steps"] if each["action"] == "replace"}
    for step in plan["steps"]:
        if step["action"] == "delete" and step["address"] in replaced:
            yield _STYLES["delete"], f"  {_SIGNS['delete']} {step['address']}  delete the replaced one  {_step(step)}"
            continue
        yield _STYLES[step["action"]], f"  {_SIGNS[step['action']]} {step['address']}  {step['action']}  {_step(step)}"
    limits = [f"{each['feature']} {_or_dash(each['before'])} -> {_or_dash(each['after'])}" for each in plan["limits"]]
    yield "", f"entitlements  {', '.join(limits) or 'unchanged'}"
    yield "", f"cost a month  {cost(plan['cost'])}"
    yield "", f"proration  {_proration(plan['proration'])}"
    yield "", f"duration  {_duration(plan['expected_ms'])}"
    yield "", f"risks  {'; '.join(each['text'] for each in plan['risks']) or 'none known'}"
    yield "", f"next  {next_command(plan, tenant)}"


def cost(found: Mapping[str, Any]) -> str:
    """Returns the cost before and after; what is unknown has no number."""
    before, after = (formatting.money(found[each]) if found[each] else "unknown" for each in ("before", "after"))
    missing = f" (no price: {'; '.join(found['missing'])})" if found["missing"] else ""
    return f"{before}{missing}" if before == after else f"{before} -> {after}{missing}"


def next_command(plan: Mapping[str, Any], tenant: str) -> str:
    """Returns the next safe command for a plan."""
    approval = plan["approval"]
    if approval is None:
        if not plan["steps"]:
            return f"paybill environment show {tenant}"
        if plan["handling"] != "unattended":
            return f"paybill environment plan {tenant}"
        return f"paybill environment apply {tenant} --plan {plan['hash']}"
    if approval["expired"] or approval["status"] not in {"requested", "granted"}:
        return f"paybill environment plan {tenant}"
    if approval["status"] == "requested":
        other = "  as another person than the requester" if approval["other_person"] else ""
        return f"paybill approval approve {approval['id']}{other}"
    return after_approval(plan, tenant)


def after_approval(plan: Mapping[str, Any], tenant: str) -> str:
    """Returns the next command for a plan that is approved."""
    if plan["transfers_data"]:
        return f"paybill environment show {tenant}  (this version transfers no data; the change stays pending)"
    return f"paybill environment apply {tenant} --plan {plan['hash']}"


def _handling(plan: Mapping[str, Any]) -> str:
    approval, reasons = plan["approval"], "; ".join(each["text"] for each in plan["reasons"])
    if not plan["steps"]:
        return "needs nothing"
    if plan["handling"] == "unattended":
        return "needs no approval"
    if approval is not None and approval["status"] == "granted" and not approval["expired"]:
        return f"approved by {approval['decided_by']} until {formatting.time(approval['expires_at'])}: {reasons}"
    if approval is not None and approval["status"] == "rejected":
        return f"rejected by {approval['decided_by']}: {approval['ended']}"
    return f"waits for approval: {reasons}"


def _step(step: Mapping[str, Any]) -> str:
    before, after = step["isolation_before"], step["isolation_after"]
    parts = [f"{before} -> {after}" if before and after and before != after else after or before]
    parts += [
        f"{each['attribute']} {_or_dash(each['before'])} -> {_or_dash(each['after'])}"
        if step["action"] in {"update", "rebuild", "replace"}
        else f"{each['attribute']} {each['after'] or each['before']}"
        for each in step["changes"]
    ]
    because = f"  because: {step['reason']}" if step["reason"] else ""
    return f"{', '.join(parts)}{because}"


def _proration(found: Mapping[str, Any] | None) -> str:
    return f"{formatting.money(found)} now" if found else "none: it follows no quoted change of the subscription"


def _duration(expected_ms: int | None) -> str:
    if expected_ms is None:
        return "unknown"
    return f"about {formatting.duration(round(expected_ms / _MS))}" if expected_ms >= _MS else "less than 1 s"


def _or_dash(value: object) -> str:
    return "-" if value is None else str(value)
