"""Next steps after a refusal: a command or an action for each problem code, with the arguments of this command."""

import shlex
from collections.abc import Mapping
from contextvars import ContextVar
from string import Formatter
from typing import Any

_arguments: ContextVar[Mapping[str, Any]] = ContextVar("arguments", default={})  # noqa: B039  # never changed

_OMITTED = ("coupon", "customer")
"""Options without which a refused command may be repeated."""
_LATER = ("{line}", "repeat the command in a moment")
_SUBSCRIPTION = ("paybill subscription show {subscription}", "paybill subscription list")
_CHANGES = ("paybill subscription changes {subscription}", "paybill subscription changes")
_ENTITLEMENT = ("paybill entitlement show {tenant}", "paybill tenant list")
_TENANT = ("paybill tenant show {tenant}", "paybill tenant list")
_PORTAL = ("paybill tenant portal {tenant}", "paybill tenant list")
_WHY = ("paybill why {tenant}", "paybill tenant list")
_ORDER = ("paybill manual offer {tenant}", "paybill manual offers")
_CONTRACT = ("paybill manual show {tenant}", "paybill manual invoices")
_LICENCE = ("paybill licence show {licence}", "paybill licence list")

NEXT_STEPS: Mapping[str, tuple[str, ...]] = {
    "access_not_open": _WHY,
    "agent_exists": ("paybill agent list",),
    "agent_expiry_invalid": ("paybill agent new --help",),
    "agent_name_taken": ("paybill agent list",),
    "agent_unknown": ("paybill agent list",),
    "answered_before_upgrade": ("paybill events tail --since 1h",),
    "approval_ended": ("paybill approval list",),
    "approval_mismatch": ("paybill approval show {approval}", "paybill approval list"),
    "approval_not_found": ("paybill approval list",),
    "approval_required": (
        "paybill approval show {approval}",
        "paybill environment plan {tenant}",
        "paybill approval list --status requested",
    ),
    "approval_unknown": ("paybill approval list",),
    "blueprint_changed": ("paybill agent diff {folder}", "paybill agent diff"),
    "blueprint_not_published": ("paybill blueprint list",),
    "blueprint_unknown": ("paybill blueprint list",),
    "blueprint_version_conflict": ("paybill blueprint diff {file}", "paybill blueprint list"),
    "broken_graph": ("paybill blueprint list",),
    "bundle_drifted": ("paybill agent check {folder}", "paybill agent check"),
    "bundle_unknown": ("paybill agent bundles",),
    "call_not_found": ("paybill agent runs",),
    "catalogue_refused": ("paybill plans diff {file}", "paybill plans list"),
    "cell_unknown": ("paybill cell list",),
    "change_confirmed": _CHANGES,
    "change_not_quoted_yet": _LATER,
    "change_open": _CHANGES,
    "change_over": _CHANGES,
    "change_pending": ("paybill environment show {tenant}", "paybill environment list"),
    "change_refused": ("paybill blueprint list",),
    "confirmation_needed": ("{line} --dry-run", "add --yes"),
    "contract_not_running": _CONTRACT,
    "contract_runs": ("paybill subscription show {tenant}", "paybill subscription list"),
    "currency_mismatch": ("paybill plans list",),
    "customer_leaves": _TENANT,
    "customer_taken": ("paybill tenant list --customer {customer}", "paybill tenant list"),
    "database_unavailable": ("paybill doctor",),
    "dead_letter_not_found": ("paybill events quarantine",),
    "debt_open": _PORTAL,
    "difference_unknown": ("paybill environment drift {tenant}", "paybill environment drift"),
    "disk_full": ("paybill doctor",),
    "drops_scheduled_phases": ("{line} --drop-scheduled --dry-run", "repeat the command with --drop-scheduled"),
    "environment_not_failed": _WHY,
    "environment_not_plannable": ("paybill environment show {tenant}", "paybill environment list"),
    "environment_not_ready": ("paybill environment show {tenant}", "paybill environment list"),
    "environment_unknown": _WHY,
    "idempotency_key_missing": ("send an Idempotency-Key",),
    "idempotency_key_reused": ("repeat the command without --idempotency-key, or with a new one",),
    "impossible_terms": ("{command} --help", "choose other terms; --help describes the options"),
    "incident_not_found": ("paybill incident list",),
    "internal_error": ("paybill doctor",),
    "invalid_blueprint": ("paybill blueprint lint {file}", "correct the lines that the message names"),
    "invalid_body": ("{command} --help", "correct it; --help describes the arguments"),
    "invalid_bundle": ("paybill agent check {folder}", "paybill agent check"),
    "invalid_idempotency_key": ("choose a key of 1 to 200 visible ASCII characters",),
    "invalid_plans": ("paybill plans lint {file}", "correct the lines that the message names"),
    "invalid_policy": ("paybill policy lint {file}", "correct the lines that the message names"),
    "invalid_price_book": ("paybill prices lint {file}", "correct the lines that the message names"),
    "invalid_request": ("{command} --help", "correct it; --help describes the arguments"),
    "invalid_resource": ("paybill blueprint list",),
    "invalid_validity": ("{command} --help", "correct --from and --until; --help describes them"),
    "invoice_settled": ("paybill manual invoices",),
    "job_changed": ("paybill jobs show {id}", "paybill jobs list"),
    "job_ended": ("paybill jobs list --state ended",),
    "job_not_found": ("paybill jobs list",),
    "job_recurring": ("paybill jobs list",),
    "key_bound_to_tenant": ("paybill key list",),
    "key_exceeds_rights": ("{command} --help", "repeat the command with a role and scopes that your key has"),
    "key_expiry_out_of_range": ("{command} --help", "repeat the command with an end within 366 days"),
    "key_in_file": ("paybill key rotate, which replaces the operator's key; elsewhere remove it from the file",),
    "key_not_found": ("paybill key list",),
    "keys_unavailable": _LATER,
    "legal_hold": (*_TENANT,),
    "legal_missing": ("{line} --legal", "repeat the command with --legal"),
    "licence_bad_signature": ("paybill licence list",),
    "licence_expired": ("paybill licence list",),
    "licence_invalid_time": ("{command} --help", "paybill licence verify --help"),
    "licence_keys_malformed": ("paybill licence keys --all",),
    "licence_keys_not_ready": _LATER,
    "licence_malformed": ("paybill licence list",),
    "licence_not_found": ("paybill licence list",),
    "licence_not_in_force": _LICENCE,
    "licence_not_yet_valid": ("paybill licence list",),
    "licence_revoked": ("paybill licence list",),
    "licence_taken_back": _LICENCE,
    "licence_unknown_key": ("paybill licence keys --all",),
    "licence_wrong_algorithm": ("paybill licence list",),
    "log_and_state_disagree": ("paybill doctor",),
    "move_finished": ("paybill plans moves",),
    "move_runs": ("paybill plans moves",),
    "no_bundle": ("paybill agent publish --help",),
    "no_catalogue": ("paybill plans publish --help",),
    "no_checkout": _WHY,
    "no_contract": _ORDER,
    "no_coupons": ("{line_without_coupon}", "repeat the command without --coupon: the price is agreed in the offer"),
    "no_dry_run": ("{command} --help", "--help describes the command"),
    "no_existing_customers": (
        "{line_without_customer} --dry-run",
        "omit --customer, or name its provider with --payment",
    ),
    "no_invoiced_usage": ("paybill provider list",),
    "no_key": ("export PAYBILL_API_KEY, or use --api-key-file",),
    "no_login": ("paybill environment show {tenant}", "paybill environment list"),
    "no_period": ("{line} --when now", "repeat the command with --when now"),
    "no_portal": ("paybill provider list",),
    "no_seat_left": _LICENCE,
    "no_such_hold": _TENANT,
    "no_such_override_or_grant": _ENTITLEMENT,
    "no_such_price": ("paybill plans list",),
    "no_such_route": ("check the URL: it may belong to another service",),
    "nobody_to_move": ("paybill plans list",),
    "not_frozen": ("paybill agent freezes",),
    "not_grantable": _ENTITLEMENT,
    "not_paused": _SUBSCRIPTION,
    "not_purged": _TENANT,
    "not_ready": _LATER,
    "not_waiting": ("paybill webhook waiting",),
    "nothing_entitled": _WHY,
    "nothing_offered": _ORDER,
    "nothing_to_change": _SUBSCRIPTION,
    "nothing_to_reactivate": _SUBSCRIPTION,
    "offerings_not_published": _LATER,
    "only_now": ("{line} --when now", "repeat the command with --when now"),
    "other_kind_of_feature": _ENTITLEMENT,
    "outcome_unknown": ("repeat the command with the same --idempotency-key",),
    "overloaded": ("paybill doctor",),
    "pays_elsewhere": _TENANT,
    "period_unpaid": _SUBSCRIPTION,
    "plan_not_on_sale": ("paybill plans list",),
    "plan_superseded": ("paybill environment plan {tenant}", "paybill approval list"),
    "plan_too_large": ("paybill blueprint list",),
    "policy_not_published": ("paybill policy list",),
    "policy_version_conflict": ("paybill policy list",),
    "price_book_not_published": ("paybill prices list",),
    "price_book_version_conflict": ("paybill prices list",),
    "provider_away": ("paybill doctor",),
    "provider_refused": (
        "paybill subscription show {subscription}",
        "paybill why {tenant}",
        "paybill provider list",
    ),
    "publisher_not_allowed": ("add the tenant to the publisher's credential",),
    "quantity_out_of_bounds": ("{command} --help", "choose a quantity within the limits that the message names"),
    "quote_changed": ("{line}", "repeat the command: it shows the new quote"),
    "quote_expired": ("{line}", "repeat the command: it makes another quote"),
    "quote_outdated": ("{line}", "repeat the command: it shows the new quote"),
    "reconciliation_ended": ("paybill provider reconciliations",),
    "reconciliation_runs": ("paybill provider reconciliations",),
    "region_full": ("paybill cell list",),
    "region_unknown": ("paybill blueprint list",),
    "request_in_progress": _LATER,
    "retention_not_over": _TENANT,
    "retention_unknown": ("{line}", "repeat the command when billing has registered the account"),
    "revocations_old": ("paybill licence list",),
    "role_unknown": ("paybill agent bundles",),
    "run_not_found": ("paybill agent runs",),
    "same_placement": ("paybill environment show {tenant}", "paybill environment list"),
    "same_version": ("paybill plans list",),
    "slug_reserved": ("{command} --help", "choose another slug"),
    "slug_taken": ("paybill tenant show {slug}", "choose another slug"),
    "subscription_cancels": (
        'paybill subscription reactivate {subscription} --reason "the customer stays"',
        "paybill subscription list",
    ),
    "subscription_ended": _SUBSCRIPTION,
    "subscription_gives_no_access": _WHY,
    "subscription_overdue": _SUBSCRIPTION,
    "subscription_paused": (
        'paybill subscription resume {subscription} --reason "the pause is over"',
        "paybill subscription list",
    ),
    "subscription_pending": _SUBSCRIPTION,
    "subscription_suspended": _SUBSCRIPTION,
    "tables_have_foreign_objects": ("paybill environment retry {tenant}", "paybill environment list"),
    "tables_not_inspected": ("paybill environment show {tenant}", "paybill environment list"),
    "tenant_leaving": _SUBSCRIPTION,
    "tenant_left": _TENANT,
    "tenant_not_found": ("paybill tenant list",),
    "tenant_not_retained": _TENANT,
    "tenant_not_running": _WHY,
    "tenant_suspended": _WHY,
    "tenant_unknown": ("paybill tenant list",),
    "terms_of_existing_customer": (
        "{command} --help",
        "omit the options of the price: the customer keeps its subscription",
    ),
    "tier_unknown": ("paybill blueprint list",),
    "too_large": ("send less at once",),
    "too_many_holds": _TENANT,
    "too_many_overrides": _ENTITLEMENT,
    "too_many_seats": ("{line} --seats 10000", "paybill licence issue --help"),
    "too_slow": ("repeat the command over a faster connection",),
    "transfer_unavailable": ("paybill environment show {tenant}", "paybill environment list --pending"),
    "try_again": _LATER,
    "undeclared_meter": ("paybill plans list",),
    "unknown_change": ("paybill subscription changes",),
    "unknown_customer": ("paybill webhook waiting",),
    "unknown_invoice": ("paybill manual invoices",),
    "unknown_meter": ("paybill usage show {tenant}", "paybill plans list"),
    "unknown_move": ("paybill plans moves",),
    "unknown_payment": ("paybill provider list",),
    "unknown_plan": ("paybill plans list",),
    "unknown_price": ("paybill plans list",),
    "unknown_provider": ("paybill provider list",),
    "unknown_reconciliation": ("paybill provider reconciliations",),
    "unknown_region": ("{command} --help", "repeat the command with one of the regions that the message lists"),
    "unknown_scope": ("{command} --help", "repeat the command with the scopes that the message lists"),
    "unknown_subscription": ("paybill subscription list",),
    "unknown_tenant": ("{line}", "repeat the command when billing has registered the tenant"),
    "unknown_window": ("paybill usage windows",),
    "unusable_key": ("{line}", "repeat the command: it creates another key"),
    "usage": ("{command} --help", "choose other arguments"),
    "usage_of_what": ("add --of and the object to count",),
    "usage_too_large": ("choose a smaller quantity",),
    "violation_unknown": ("paybill doctor",),
    "window_not_reported": ("paybill usage windows",),
    "workflow_not_found": ("paybill agent bundles",),
    "wrong_key": ("paybill key rotate, which replaces the key of a local stack; elsewhere ask an admin for one",),
    "wrong_scope": ("ask an admin for a key with this permission",),
}
"""Alternatives by code: the first one applies whose fields are arguments of the command."""


def remember_arguments(values: Mapping[str, Any]) -> None:
    """Stores the arguments of the running command."""
    known = {name: value for name, value in values.items() if value is not None}
    for option in _OMITTED if "line" in known else ():
        known[f"line_without_{option}"] = _line_without(known["line"], f"--{option}")
    _arguments.set(known)


def remember_argument(name: str, value: str) -> None:
    """Stores a value that the running command has found, such as the approval of a tenant's plan."""
    _arguments.set({**_arguments.get(), name: value})


def next_step(code: str) -> str:
    """Returns the next step after a refusal with this code; empty when none is known."""
    known = _arguments.get()
    for step in NEXT_STEPS.get(code, ()):
        if {field for _, field, _, _ in Formatter().parse(step) if field} <= known.keys():
            return step.format_map(known)
    return ""


def _line_without(line: str, option: str) -> str:
    """Returns a command line without an option that has a value."""
    words = iter(shlex.split(line))
    kept = []
    for word in words:
        if word == option:
            next(words, None)
        elif not word.startswith(f"{option}="):
            kept.append(word)
    return shlex.join(kept)


def running_command() -> str:
    """Returns the name of the running command, such as `paybill plans lint`."""
    return str(_arguments.get().get("command", ""))


def line_with(option: str, value: str) -> str:
    """Returns the line of the running command with a value of an option, in place of another one."""
    words = shlex.split(_arguments.get()["line"])
    for number, word in enumerate(words):
        if word == option and number + 1 < len(words):
            words[number + 1] = value
            break
        if word.startswith(f"{option}="):
            words[number] = f"{option}={value}"
            break
    else:
        words += [option, value]
    return shlex.join(words)
