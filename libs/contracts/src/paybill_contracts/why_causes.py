"""Rules that find causes in the parts of all services, from what stops everything to what a customer has to do.

The order of the rules is the ranking: a rule explains more than the rules below it, because their findings follow.
"""

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime

from paybill_contracts.why import (
    ENTITLING,
    LEFT,
    MAX_CLOCK_SKEW,
    Case,
    Cause,
    EnvironmentState,
    Explanation,
    Machine,
    OpenJob,
    ServicePart,
    Unanswered,
    chain_of,
    part_of,
    time_text,
)
from paybill_contracts.why_customer import pauses, payment, retained, return_command

MAX_OUTBOX_AGE_S = 30
MIN_FREE_MIB = 1024
DOCTOR = "paybill doctor"
_DATABASE_CODES = frozenset({"database_unavailable"})
_FULL_CODE = "disk_full"
_CLOCK_REFUSALS = frozenset({"stale", "future"})
_FULL = ("no space", "disk full", "disk is full", "storage exceeded", "insufficient storage", "insufficient resources")
_GENERAL_JOBS = frozenset({"check_invariants", "delete_ended_jobs", "delete_webhook_bodies"})
"""Jobs that change nothing about a tenant."""
_OF_BUILD = frozenset({"waits", "refused", "failed", "transfer"})
"""Reasons of environments that are explained by their jobs, their refusal, their failure or their pending change."""
_CREDIT = 4
"""The invariant about credit."""
_TAKE_BACK = (
    "to take credit back, raise the customer's balance at the provider by it; it is checked every 10 minutes",
)


def explain(name: str, parts: Sequence[ServicePart], unanswered: Sequence[Unanswered], machine: Machine) -> Explanation:
    """Returns why the tenant is in its state: the root cause first. name: its slug, or its id when that is unknown."""
    case = Case(name, parts, unanswered, machine)
    causes = tuple(cause for rule in RULES for cause in rule(case))
    return Explanation(
        tenant=name,
        headline=_headline(case, causes),
        causes=causes,
        chain=chain_of(parts),
        unanswered=tuple(unanswered),
        step=None if causes else return_command(case),
        customer=case.account.customer if case.account else None,
    )


def _headline(case: Case, causes: Sequence[Cause]) -> str:
    tenant = case.tenant
    state = f"{case.name} is {tenant.status}" if tenant else f"the status of {case.name} is unknown"
    if causes:
        return f"{state}: {causes[0].summary}"
    if tenant and tenant.waits_for:
        until = f" until {time_text(tenant.waits_until)}" if tenant.waits_until else ""
        return f"{state}: it waits for {tenant.waits_for}{until}"
    if tenant and tenant.status == "retained":
        return retained(case, tenant)
    return f"{state}: nothing is wrong, and nothing is pending{pauses(case)}"


def _disk(case: Case) -> Iterator[Cause]:
    free = case.machine.free_mib
    if free is not None and free < MIN_FREE_MIB:
        yield Cause("disk", "machine", f"the disk of {case.machine.disk} has {free} MiB free", DOCTOR)
    for each in case.unanswered:
        if each.code == _FULL_CODE:
            yield Cause("disk", each.service, f"{each.service} cannot write: {each.detail}", DOCTOR)
    for part in case.parts:
        for name, found in part.checks.items():
            if any(word in found.lower() for word in _FULL):
                yield Cause("disk", part.service, f"{name} of {part.service}: {found}", DOCTOR)
        for job in part.jobs:
            if job.error and any(word in job.error.lower() for word in _FULL):
                yield Cause("disk", part.service, f"{_label(job)} failed: {job.error}", DOCTOR)


def _database(case: Case) -> Iterator[Cause]:
    for each in case.unanswered:
        if each.code in _DATABASE_CODES:
            yield Cause("database", each.service, f"{each.service} cannot reach PostgreSQL: {each.detail}", DOCTOR)
    for part in case.parts:
        if part.checks.get("database", "ok") != "ok":
            state = part.checks["database"]
            found = "cannot reach PostgreSQL" if state == "away" else f"cannot write: {state}"
            yield Cause("database", part.service, f"{part.service} {found}", DOCTOR)


def _unreachable(case: Case) -> Iterator[Cause]:
    for each in case.unanswered:
        if each.code not in _DATABASE_CODES and each.code != _FULL_CODE:
            yield Cause("service", each.service, f"{each.service} does not answer: {each.detail}", DOCTOR)


def _bus(case: Case) -> Iterator[Cause]:
    for part in case.parts:
        bus, service = part.checks.get("bus", "ok"), part.service
        if bus != "ok":
            found = "NATS does not answer" if bus == "away" else bus
            yield Cause("bus", service, f"{service} cannot publish: {found}", DOCTOR)
        elif part.outbox_waiting and part.outbox_age_s > MAX_OUTBOX_AGE_S:
            found = f"{part.outbox_waiting} facts of {service} are not published, the oldest for {part.outbox_age_s} s"
            yield Cause("bus", service, found, DOCTOR)
        intake = part.checks.get("intake_stream", "ok")
        if intake != "ok":
            yield Cause("bus", service, f"usage of publishers is not stored: {intake}", DOCTOR)


def _loops(case: Case) -> Iterator[Cause]:
    for part in case.parts:
        for name, state in part.checks.items():
            if state != "ok" and name not in {"bus", "database", "intake_stream"}:
                yield Cause("loop", part.service, f"{name} of {part.service}: {state}", DOCTOR)


def _lease(case: Case) -> Iterator[Cause]:
    for part in case.parts:
        if not part.owned:
            found = f"no live process of {part.service} owns the partition of {case.name}, so its facts wait"
            yield Cause("lease", part.service, found, DOCTOR)


def _clock(case: Case) -> Iterator[Cause]:
    for part in case.parts:
        skew = abs(part.now - case.machine.now)
        if skew > MAX_CLOCK_SKEW:
            found = f"the clock of {part.service} differs from this machine's by {round(skew.total_seconds())} s"
            yield Cause("clock", part.service, found, DOCTOR)
    if case.account is None or not case.may_lack_webhooks:
        return
    for refused in case.account.refused_webhooks:
        if refused.reason in _CLOCK_REFUSALS and _is_current(refused.accepted_at, refused.last_at):
            found = f"{refused.count} webhooks of {refused.provider} are refused as {refused.reason}: a clock is wrong"
            yield Cause("clock", "billing", found, DOCTOR)


def _is_current(accepted_at: datetime | None, refused_at: datetime) -> bool:
    return accepted_at is None or accepted_at < refused_at


def _messages(case: Case) -> Iterator[Cause]:
    """Facts that could not be handled; those behind the first one of each service only wait for it."""
    for part in case.parts:
        for message in part.messages:
            if message.dead or message.attempts:
                state = "is a dead letter" if message.dead else f"failed {message.attempts} times"
                found = f"{message.type} {state} in {part.service}: {message.reason}"
                because = (f"{len(part.messages) - 1} facts of {case.name} wait behind it",)
                yield Cause("message", part.service, found, f"paybill events redrive {message.id}", because)
                break


def _holds(case: Case) -> Iterator[Cause]:
    tenant = case.tenant
    if tenant is None or tenant.status in LEFT:
        return
    for hold in tenant.holds:
        if hold.origin == "legal":
            yield Cause("legal_hold", "tenant", f"a legal hold: {hold.reason}", f"paybill tenant show {tenant.slug}")
        elif hold.origin == "quarantine":
            because = (f"its end gives the tenant access again: paybill tenant end-quarantine {tenant.slug}",)
            found = f"it is quarantined: {hold.reason}"
            yield Cause("quarantine", "tenant", found, f"paybill tenant show {tenant.slug}", because)
        elif hold.origin != "billing":
            found = f"an operator's hold ({hold.mode.replace('_', ' ')}): {hold.reason}"
            yield Cause("hold", "tenant", found, f"paybill tenant resume {tenant.slug}")


def _isolation(case: Case) -> Iterator[Cause]:
    if case.environment is not None and case.environment.breach:
        found = f"its neighbours are not isolated: {case.environment.breach}"
        yield Cause("isolation", "provisioner", found, "paybill cell list")


def _build(case: Case) -> Iterator[Cause]:
    environment, part = case.environment, part_of(case.parts, "provisioner")
    if environment is None or part is None:
        return
    if environment.refusal and case.status not in LEFT:
        held = environment.unsettled
        command = held.command if held is not None and held.reason == "refused" else "paybill blueprint list"
        found = f"the environment cannot be planned: {environment.refusal}"
        because = (environment.refusal_ends,) if environment.refusal_ends else ()
        yield Cause("plan_refused", "provisioner", found, command, because)
    if environment.failure and environment.status in {"failed", "ready"} and case.status not in LEFT:
        found = f"{environment.failed_resource} could not be built: {environment.failure}"
        yield Cause("build", "provisioner", found, f"paybill tenant retry {case.name}")
        return
    if environment.failure and environment.status == "purging":
        found = f"{environment.failed_resource} could not be deleted: {environment.failure}"
        yield Cause("purge", "provisioner", found, f"paybill environment retry {case.name}")
        return
    # A retry of the tenant plans again: the failed job of the earlier plan stays in the list of jobs.
    is_built = environment.status not in {"registered", "building"}
    yield from _jobs(part, "build", [job for job in part.jobs if not (is_built and job.state == "failed")])


def _jobs(part: ServicePart, kind: str, jobs: Sequence[OpenJob]) -> Iterator[Cause]:
    for job in jobs:
        if job.error and job.kind not in _GENERAL_JOBS and not job.kind.startswith("sync/"):
            found = f"{_label(job)} {_progress(job)}: {job.error}"
            is_retried = job.state == "pending" and (job.attempts or job.waits)
            because = (f"it continues by itself; the next attempt is at {time_text(job.due)}",) if is_retried else ()
            yield Cause(kind, part.service, found, f"paybill jobs retry {job.id}", because)


def _label(job: OpenJob) -> str:
    return f"the job {job.kind.replace('_', ' ')}"


def _progress(job: OpenJob) -> str:
    if job.state == "failed":
        return "failed"
    # While another system is unavailable, a job waits, and its attempts do not count.
    waited = f"waits and is retried, {job.waits} times so far" if job.waits else "waits and is retried"
    return f"failed {job.attempts} times and is retried" if job.attempts else waited


def _provider(case: Case) -> Iterator[Cause]:
    account, part = case.account, part_of(case.parts, "billing")
    if account is None or part is None:
        return
    failed = [job for job in part.jobs if job.error and not job.kind.startswith("sync/")]
    if account.status == "failed" and case.status in LEFT:
        return
    if account.status == "failed":
        retry = f"paybill jobs retry {failed[0].id}" if failed else f"paybill tenant show {case.name}"
        give_up = f"paybill tenant offboard {case.name} --reason refused"
        found = f"{account.provider} refused the account: {account.failure}"
        if account.is_coupon_refused:
            # Only a change at the provider would make the same coupon valid.
            because = (f"to keep the sign-up, create the coupon at {account.provider} and run: {retry}",)
            yield Cause("provider", "billing", found, give_up, because)
        elif account.is_customer_refused:
            because = ("the customer of a sign-up cannot be changed: sign up again with another one, or without",)
            yield Cause("provider", "billing", found, give_up, because)
        else:
            yield Cause("provider", "billing", found, retry)
    else:
        yield from _jobs(part, "provider", part.jobs)
    if account.provider_problem:
        yield Cause("provider", "billing", f"{account.provider} does not answer: {account.provider_problem}", DOCTOR)


def _syncs(case: Case) -> Iterator[Cause]:
    account = case.account
    for sync in account.own_syncs if account else ():
        if sync.error:
            found = f"{sync.object} of {sync.provider} cannot be synced: {sync.error}"
            yield Cause("sync", "billing", found, f"paybill webhook retry {sync.object} --provider {sync.provider}")


def _signature(case: Case) -> Iterator[Cause]:
    account = case.account
    if account is None or not case.may_lack_webhooks:
        return
    for refused in account.refused_webhooks:
        if refused.may_be_of_strangers and not account.missing:
            continue
        if refused.reason not in _CLOCK_REFUSALS and _is_current(refused.accepted_at, refused.last_at):
            reason = refused.reason.replace("_", " ")
            found = (
                f"{refused.count} webhooks of {refused.provider} are refused ({reason}), and none was accepted since"
            )
            yield Cause("signature", "billing", found, f"paybill webhook refused --provider {refused.provider}")


def _missing(case: Case) -> Iterator[Cause]:
    account = case.account
    if account is None:
        return
    for object_ in account.missing:
        found = f"{account.provider} has {object_}, and no webhook about it arrived"
        yield Cause("webhook_lost", "billing", found, f"paybill provider reconcile {account.provider}")


def _incidents(case: Case) -> Iterator[Cause]:
    for part in case.parts:
        for each in part.incidents:
            command = each.command or f"paybill incident show {each.id}"
            yield Cause("incident", part.service, f"{each.kind.replace('_', ' ')}: {each.summary}", command)


def _violations(case: Case) -> Iterator[Cause]:
    for part in case.parts:
        for each in part.violations:
            found = f"invariant {each.number} ({each.statement}) does not hold: {each.left}, and {each.right}"
            because = (f"since {time_text(each.since)}", *(_TAKE_BACK if each.number == _CREDIT else ()))
            yield Cause("violation", part.service, found, f"paybill tenant show {case.name}", because)


def _pending_change(case: Case) -> Iterator[Cause]:
    environment = case.environment
    held = environment.unsettled if environment else None
    if environment is not None and held is not None and held.reason not in _OF_BUILD:
        why = [f"since {time_text(held.since)}"] if held.since else []
        if environment.pending and case.status not in LEFT:
            why += [environment.pending, _change_back(case, environment)]
        yield Cause(held.reason, "provisioner", held.text, held.command, tuple(why))
    elif environment is not None and environment.pending and case.status not in LEFT:
        change = "move" if environment.requested_by_person else "change of plan"
        found = f"the infrastructure has not followed a {change}: {environment.pending}"
        because = (
            "a move between sizes is not built yet: the change stays pending, and the tenant keeps what is built",
            _change_back(case, environment),
        )
        # The customer ordered the change, so the next command must not undo it.
        yield Cause("pending_change", "provisioner", found, f"paybill tenant show {case.name}", because)


def _change_back(case: Case, environment: EnvironmentState) -> str:
    """Returns how a pending change is given up, with the command: a move by another one, a plan by a plan."""
    if environment.requested_by_person:
        return f"to give the move up: paybill environment move {case.name} --to {environment.placement}"
    return f"to give the change up, return to a plan that has the built size: {_plan_back(case)}"


def _plan_back(case: Case) -> str:
    """Returns the command that changes the subscription to a plan of the built size; it quotes before it changes."""
    account = case.account
    entitling = [each for each in account.subscriptions if each.access in ENTITLING] if account else []
    if account is None or account.plan_of_built_size is None or len(entitling) != 1:
        return "paybill plans list"
    name = case.name if len(account.subscriptions) == 1 else entitling[0].id
    return f'paybill subscription change {name} --plan {account.plan_of_built_size} --reason "back to the built size"'


def _access(case: Case) -> Iterator[Cause]:
    environment = case.environment
    if environment is not None and environment.status == "ready" and environment.access != environment.target_access:
        found = f"access is {environment.access} and changes to {environment.target_access}"
        yield Cause("access", "provisioner", found, "paybill jobs list --kind change_access")


Rule = Callable[[Case], Iterator[Cause]]
RULES: Sequence[Rule] = (
    _disk,
    _database,
    _unreachable,
    _bus,
    _lease,
    _loops,
    _clock,
    _messages,
    _holds,
    _incidents,
    _isolation,
    _build,
    _provider,
    _syncs,
    _signature,
    _missing,
    payment,
    _pending_change,
    _access,
    _violations,
)
"""All rules, those first whose findings explain those of others."""
