"""Each event as one short English sentence for operators. Personal data is never part of it."""

from datetime import UTC, datetime
from typing import Any, assert_never

from typing_extensions import override

from paybill_contracts.agent_bundles import Amounts
from paybill_contracts.agents import Thawed
from paybill_contracts.billing import EntitlementsSet
from paybill_contracts.catalogue import BooleanFeature, Feature, LimitFeature, MeteredFeature, StaticFeature
from paybill_contracts.cells import Breach
from paybill_contracts.drift import ResourceDifference
from paybill_contracts.environment_plans import BuiltOutputs
from paybill_contracts.event import Event
from paybill_contracts.money import Money
from paybill_contracts.operations import RequestRefused
from paybill_contracts.tenant import Hold, OpenIncident

_DAY_S = 86_400
_BEFORE = (",", " ")
"""Beginnings of the formats that stand before a value."""
_DOT = "."
_GATEWAY = "service:agent-gateway"

_SENTENCES = {
    "agent-gateway.action_done": "{run_id} seq {seq}: {workflow:.}{step} "
    "done{verb:, }{resource: of }{chosen:, chosen }, rows: {rows:count}",
    "agent-gateway.action_failed": "{run_id} seq {seq}: {workflow:.}{step} failed and changed nothing: {code}",
    "agent-gateway.action_intended": "{run_id} seq {seq}: {workflow:.}{step} is executed next, {verb} of {resource}, "
    "reserving {reserved}",
    "agent-gateway.action_refused": "{run_id} seq {seq}: {workflow:.}{called}{agent_id: by } refused, {code}: {rule}",
    "agent-gateway.action_voided": "{run_id} seq {seq}: {workflow:.}{step} "
    "changed nothing; its unknown outcome is settled",
    "agent-gateway.agent_ended": "agent {agent_id} ended by {ended_by} ({reason})",
    "agent-gateway.agent_registered": "agent {name} registered as {agent_id} by {registered_by} in the role {role}"
    "{expires_at:, until }",
    "agent-gateway.approval_denied": "{run_id} seq {seq}: {workflow:.}{step} "
    "denied by {denied_by}, {approval_id}: {reason}",
    "agent-gateway.approval_expired": "{run_id} seq {seq}: {workflow:.}{step} can no longer use the approval "
    "{approval_id}: {reason}",
    "agent-gateway.approval_granted": "{run_id} seq {seq}: {workflow:.}{step} "
    "approved by {approval.approver}, {approval_id}",
    "agent-gateway.approval_requested": "{run_id} seq {seq}: {workflow:.}{step} "
    "waits for the approval {approval_id} until {expires_at}, "
    "{verb} of {resource}, rows: {rows:count}; {reason}",
    "agent-gateway.blueprint_noted": "bundles are checked against {blueprint}@{content.version}, {content_hash:.14}…",
    "agent-gateway.budget_reserved": "{run_id} of {workflow} reserves {reserved} of the day's budget",
    "agent-gateway.budget_settled": "{run_id} of {workflow} used {used} of the day's budget",
    "agent-gateway.bundle_activated": "bundle {bundle_hash:.14}… is in force for {blueprint}, by {activated_by}",
    "agent-gateway.bundle_published": "bundle {content_hash:.14}… of {content.blueprint.name} published by "
    "{published_by}, workflows: {content.workflows:count}, grants: {content.grants:count}",
    "agent-gateway.frozen": "{freeze} frozen by {frozen_by}: {reason}",
    "agent-gateway.run_ended": "{run_id} of {workflow} ended ({reason}) after {actions} actions; used {used}",
    "agent-gateway.request_refused": "{verb} {target}{caller: by } refused: {code}",
    "agent-gateway.run_started": "{run_id} of {workflow} started by {started_by}, reserving {reserved}, "
    "until {expires_at}",
    "agent-gateway.tenant_changed": "agents: {slug} is {status}, {allows_access:entitled|not entitled}{feature:, }",
    "agent-gateway.thawed": "{freeze} thawed by {thawed_by}",
    "billing.account_adopted": "existing customer {customer} at {provider} taken over",
    "billing.account_failed": "{provider} refused to open the account: {reason}",
    "billing.account_opened": "account opened at {provider} as {customer}; waits for payment",
    "billing.account_registered": "account to be opened at {provider} for plan {plan}",
    "billing.billing_period_started": "billing period begins; usage until {period_end} belongs to its invoice",
    "billing.catalogue_published": "plans and meters published, {content_hash:.14}…",
    "billing.cancellation_requested": "everything of the customer at {provider} is to be cancelled",
    "billing.change_applied": "change {change_id} applied at the provider",
    "billing.change_discarded": "change {change_id} discarded",
    "billing.change_confirmed": "change {change_id} confirmed",
    "billing.change_quoted": "change {change_id} quoted, valid until {valid_until}",
    "billing.change_refused": "change {change_id} refused: {reason}",
    "billing.change_requested": "change {change_id} requested ({wanted.kind}): {reason}",
    "billing.checkout_expired": "checkout at {provider} can no longer be used",
    "billing.checkout_opened": "checkout opened at {provider}, in place of an earlier one",
    "billing.contract_renewed": "contract renewed for the next period",
    "billing.debt_changed": "the customer owes {debt:nothing} at {provider}",
    "billing.dispute_closed": "dispute of {payment} decided: {outcome}",
    "billing.drift_found": "record and {provider} differ ({kind}) at {provider_object}",
    "billing.entitlement_granted": "granted {amount} more of {feature}{valid_until:, until }: {reason}",
    "billing.entitlement_overridden": "{feature} by an operator's override{valid_until:, until }: {reason}",
    "billing.entitlement_withdrawn": "{withdrawn_id} withdrawn by an operator: {reason}",
    "billing.entitlements_set": "{allows_access:entitled|no longer entitled} to {plan.plan}@{plan.version}, "
    "tier {tier} ({placement}), revision {set_revision}",
    "billing.leftover_ended": "{kind} {subscription} at {provider} can no longer charge the customer",
    "billing.leftover_found": "{kind} {subscription} at {provider} can still charge the customer; policy: {action}",
    "billing.licence_activated": "licence in use on another machine, {seats_used} seats used",
    "billing.licence_issued": "licence {licence_id} issued",
    "billing.licence_key_published": "licences are signed with the key {kid} from now on",
    "billing.licence_renewed": "licence {licence_id} renewed",
    "billing.licence_revoked": "licence {licence_id} revoked: {reason}",
    "billing.move_progressed": "plan migration continues: {asked} changes requested, {moved} made, {refused} refused",
    "billing.move_started": "plan migration of {total} subscriptions begins: {reason}",
    "billing.payment_disputed": "the bank disputes {payment}; answer before {respond_by}",
    "billing.payment_failed": "payment of {invoice} failed, attempt {attempt}",
    "billing.payment_refunded": "refund of {payment}",
    "billing.providers_configured": "providers configured; the default is {default}",
    "billing.quota_exceeded": "quota of {meter} used up: {value} of {quota}",
    "billing.quota_warned": "80 % of the quota of {meter} used: {value} of {quota}",
    "billing.subscription_activated": "subscription {subscription.access} on {subscription.plan.plan}, "
    "quantity {subscription.quantity}",
    "billing.subscription_changed": "subscription changed: {subscription.plan.plan}, quantity {subscription.quantity}"
    "{subscription.cancel_at:, ends at }{subscription.pending.at:, another plan or quantity from }",
    "billing.subscription_ended": "subscription ended",
    "billing.subscription_grace_started": "payment outstanding; access stays until {subscription.grace_until}",
    "billing.subscription_paused": "subscription paused",
    "billing.subscription_recovered": "subscription active again; access as before",
    "billing.subscription_registered": "subscription known at {subscription.provider}, not paid yet",
    "billing.subscription_suspended": "unpaid: no access until payment",
    "billing.trial_claimed": "trial of {plan} taken; no other one until {until}",
    "billing.usage_allocated": "{quantity} {meter} allocated to invoices",
    "billing.usage_counted": "the provider counted {quantity} {meter}",
    "billing.usage_recorded": "used {quantity} {meter}, {total} in total",
    "billing.usage_cutoff_reached": "usage known at {reached_at} is allocated to the invoice of the period",
    "billing.usage_cutoff_requested": "usage until {until} is to be reported before the subscription changes",
    "billing.usage_part_closed": "{quantity} {meter} to be reported to {provider}",
    "billing.usage_report_failed": "usage of {meter} not accepted by the provider: {reason}",
    "billing.usage_reported": "{quantity} {meter} reported to {provider}",
    "billing.usage_unbilled": "{quantity} {meter} are on no invoice: {reason}",
    "billing.usage_watermark_moved": "usage of {meter} before {watermark} is no longer accepted",
    "billing.usage_window_closed": "usage of {meter} closed at {value}",
    "billing.usage_window_opened": "usage of {meter} is counted until {window_end}",
    "provisioner.access_change_started": "access is to become {access}",
    "provisioner.access_closed": "access is {access} now",
    "provisioner.access_opened": "access opened",
    "provisioner.agent_rights_granted": "the agents' login has the rights of the bundle {bundle_hash:.14}…",
    "provisioner.approval_granted": "plan {plan_hash:.14}… approved by {approval.approver}, {approval_id}",
    "provisioner.approval_rejected": "plan {plan_hash:.14}… rejected by {rejected_by}: {reason}",
    "provisioner.approval_requested": "plan {plan_hash:.14}… waits for the approval {approval_id} until {expires_at}",
    "provisioner.approval_used": "approval {approval_id} used for plan {plan_hash:.14}…",
    "provisioner.approval_void": "approval {approval_id} is void: {reason}",
    "provisioner.blueprint_published": "blueprint {content.name}@{content.version} published, {content_hash:.14}…",
    "provisioner.credentials_made": "credentials made",
    "provisioner.credentials_requested": "credentials requested: {secrets}",
    "provisioner.drift_accepted": "accepted by {accepted_by}: {difference} ({reason})",
    "provisioner.drift_ended": "no longer found: {difference}",
    "provisioner.drift_found": "{difference}",
    "provisioner.environment_change_pending": "{from_tier} ({from_preset}) is to become {to_tier} ({to_preset}), which "
    "waits for {waits_for}: {reason}",
    "provisioner.environment_change_settled": "the change to another tier or placement ends with {tier} ({preset}): "
    "{reason}",
    "provisioner.environment_changed": "environment changed in place, {plan_hash:.14}…",
    "provisioner.environment_desired": "{allows_access:entitled|no longer entitled} to {tier} ({preset})",
    "provisioner.environment_failed": "building {address} failed: {reason}",
    "provisioner.environment_planned": "environment planned as {plan.tier} ({plan.preset}), {plan_hash:.14}…",
    "provisioner.environment_ready": "environment ready, epoch {epoch}",
    "provisioner.environment_registered": "environment needed in {region}",
    "provisioner.environment_retained": "data exported and kept, access closed",
    "provisioner.isolation_breached": "{isolation} cell {number} of {region} does not isolate its tenants: {breaches}",
    "provisioner.isolation_restored": "{isolation} cell {number} of {region} isolates its tenants again",
    "provisioner.move_requested": "move from {from_preset} to {to_preset} requested by {requester}",
    "provisioner.plan_refused": "{tier} ({preset}) cannot be planned: {reason}",
    "provisioner.plan_superseded": "plan {plan_hash:.14}… superseded, because of: {changed}",
    "provisioner.policy_published": "policy {content.name}@{content.version} published, {content_hash:.14}…",
    "provisioner.plan_run_measured": "a plan with these steps took {took_ms} ms",
    "provisioner.price_book_published": "price book {content.name}@{content.version} of {content.date} published, "
    "{content_hash:.14}…",
    "provisioner.proration_noted": "change to {tier} ({preset}) quoted, proration {due_now}",
    "provisioner.resource_built": "{resources} built",
    "provisioner.resource_removed": "{address} ({name}) removed",
    "provisioner.retention_started": "data is to be exported and access closed",
    "provisioner.step_pending": "{address}: the provider works on {action}",
    "provisioner.steps_intended": "{addresses} to be created next",
    "tenant.debt_noted": "the tenant's customer owes {debt:nothing}",
    "tenant.entitlement_noted": "{allows_access:entitled|no longer entitled} to plan {plan}, tier {tier} ({placement})",
    "tenant.holds_changed": "holds changed: {holds}",
    "tenant.incidents_noted": "open incidents about the tenant: {incidents:none}",
    "tenant.key_created": "API key {key_id} ({name}) created for {subject} by {created_by}: {role}, {scopes}, until "
    "{expires_at}",
    "tenant.event_voided": "event {sequence} is void: {reason} ({by})",
    "tenant.key_revoked": "API key {key_id} of {subject} revoked by {revoked_by}",
    "tenant.legal_hold_placed": "legal hold for case {case}: data is kept",
    "tenant.legal_hold_released": "legal hold for case {case} released",
    "tenant.offering_noted": "sign-ups may now name these {offering}: {keys}",
    "tenant.offboarding_scheduled": "the last subscription ended; offboarding begins at {at} if none is active before",
    "tenant.offboarding_started": "offboarding ({reason}); data kept until {retain_until}",
    "tenant.provisioning_failed": "environment could not be built: {reason}",
    "tenant.provisioning_started": "environment is being built",
    "tenant.remainder_noted": "what can still charge the customer of the leaving tenant: {remaining:nothing}",
    "tenant.retention_noted": "data is to be kept for {retention_s:days} after offboarding",
    "tenant.return_ruled_out": "its customer can no longer return: {reason}",
    "tenant.tenant_activated": "active as {slug}",
    "tenant.tenant_cancelled": "left before there was an environment: {reason}",
    "tenant.tenant_reactivated": "active again, the hold of {lifted} is lifted",
    "tenant.tenant_requested": "signed up as {slug} for {plan} in {region}",
    "tenant.tenant_retained": "data kept until {retain_until}, then it may be purged",
    "tenant.tenant_suspended": "suspended ({mode}): {holds}",
    "usage.recorded": "used {quantity} {meter}",
}
"""Templates by event type; another event is described by the first sentence of its docstring."""

_SENTENCES_OF_EVERY_CONTEXT = {
    "incident_changed": "incident {kind} is now: {summary}",
    "incident_closed": "incident {incident_id} closed: {reason}",
    "incident_opened": "incident {kind}: {summary}",
    "intake_quarantined": "message of {publisher} quarantined: {reason}",
    "job_cancelled": "job {kind} cancelled by {operator}: {reason}",
    "job_retried": "job {kind} retried by {operator}",
    "message_dead_lettered": "{message_type} failed {attempts} times and waits for an operator: {reason}",
    "message_redriven": "dead letter retried by {operator}",
    "message_skipped": "dead letter skipped by {operator}: {reason}",
    "request_refused": "{verb} refused: {code}",
    "signing_key_published": "facts are signed with key {key_id} (number {number}) from now on",
    "signing_key_withdrawn": "signing key {key_id} withdrawn: {reason}",
}
"""Templates of events that several contexts have, by name without the context."""


def sentence(event: Event) -> str:
    """Returns what happened, without a final stop."""
    if isinstance(event, Thawed) and event.thawed_by == _GATEWAY:
        return "the agent gateway starts for the first time, and nothing is frozen"
    template = _SENTENCES.get(event.TYPE) or _SENTENCES_OF_EVERY_CONTEXT.get(event.TYPE.partition(".")[2])
    if template is None:
        text = (event.__doc__ or event.TYPE).partition("\n")[0].partition(". ")[0].rstrip(".").replace("`", "")
        return text[:1].lower() + text[1:]
    text = template.format_map({name: _Readable(getattr(event, name)) for name in type(event).model_fields})
    if isinstance(event, RequestRefused) and event.left_out:
        return f"{text}, and {event.left_out} more in the same minute"
    return text + _beside_plan(event) if isinstance(event, EntitlementsSet) else text


def _beside_plan(event: EntitlementsSet) -> str:
    """Returns the features that are not those of the plan, because of overrides and grants."""
    if event.plan_features is None or not event.allows_access:
        return ""
    plan = {feature.key: feature for feature in event.plan_features}
    different = [feature for feature in event.features if feature != plan.get(feature.key)]
    texts = [f"{_text(each)} (plan: {_content(plan.get(each.key))})" for each in different]
    return f", with {', '.join(texts)}" if texts else ""


def _content(feature: Feature | None) -> str:
    match feature:
        case None:
            return "none"
        case BooleanFeature():
            return "on" if feature.enabled else "off"
        case StaticFeature():
            return feature.value
        case LimitFeature():
            return f"at most {feature.limit}"
        case MeteredFeature():
            quota = "" if feature.quota is None else f" and at most {feature.quota}"
            return f"{feature.included} included{quota}"
        case _:
            assert_never(feature)


def _text(value: Any) -> str:
    match value:
        case Money():
            return value.text
        case Hold():
            return f"{value.origin}: {value.reason}"
        case OpenIncident():
            return f"{value.kind} of {value.subject}" if value.kind and value.subject else value.incident_id
        case BooleanFeature() | StaticFeature() | LimitFeature() | MeteredFeature():
            return f"{value.key} {_content(value)}"
        case BuiltOutputs():
            return value.address
        case ResourceDifference():
            return value.text
        case Breach():
            return f"{value.guarantee} at {value.object}"
        case Amounts():
            sums = [f"{name} {total}" for name, total in sorted(value.sums.items())]
            return ", ".join([f"{value.calls} calls", f"{value.rows} rows", *sums])
        case _:
            return str(value)


class _Readable:
    """A field whose format is made for people: times in UTC to the minute, `-` for nothing, lists, reasons of holds.

    `{field:days}` is a number of seconds in days, `{field:this|that}` the text for true or for false, and
    `{field:text}` the text for an empty list, and `{field:count}` its length. `{field:, text}` and `{field: text}`
    stand before a value, and are omitted without one. `{field:.}` is a value and a full stop, or nothing.
    """

    def __init__(self, value: Any) -> None:
        self._value = value

    def __getattr__(self, name: str) -> Any:
        return self if self._value is None else _Readable(getattr(self._value, name))

    @override
    def __format__(self, spec: str) -> str:
        match self._value:
            case None:
                return "" if spec.startswith((*_BEFORE, _DOT)) else "-"
            case datetime():
                return f"{spec}{self._value.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
            case bool() if "|" in spec:
                return spec.split("|")[0 if self._value else 1]
            case int() if spec == "days":
                return f"{self._value / _DAY_S:g} d"
            case tuple() if spec == "count":
                return str(len(self._value))
            case tuple():
                separator = "; " if self._value and isinstance(self._value[0], Hold) else ", "
                return separator.join(map(_text, self._value)) or spec or "none"
            case _ if spec == _DOT:
                return _text(self._value) + _DOT
            case _ if spec.startswith(_BEFORE):
                return spec + _text(self._value)
            case _:
                return format(_text(self._value), spec)
