"""All commands, and where each is found; a module is imported when its command is used, so that `--help` is quick."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Leaf:
    """A command: `target` is `module:function`, `summary` the first line of the function's docstring."""

    target: str
    summary: str
    passes_on: bool = False
    """Whether its arguments are for another program."""


@dataclass(frozen=True, slots=True)
class Branch:
    """A group of commands."""

    summary: str
    commands: Mapping[str, "Leaf | Branch"]


TREE = Branch(
    "Customers subscribe, infrastructure follows, and the log proves it.",
    {
        "up": Leaf("paybill_cli.up:up", "Run the whole stack in the foreground, until Ctrl-C."),
        "demo": Leaf("paybill_cli.demo.commands:demo", "Show the main job on real parts, from sign-up to replay."),
        "tenant": Branch(
            "Create, look at, suspend and offboard tenants.",
            {
                "create": Leaf("paybill_cli.tenants:create", "Ask for a new tenant."),
                "list": Leaf("paybill_cli.tenants:list_all", "List tenants in the order of their slugs."),
                "show": Leaf("paybill_cli.tenants:show", "Show one tenant, by slug or id."),
                "suspend": Leaf("paybill_cli.tenants:suspend", "Shut a tenant out, keeping everything it owns."),
                "resume": Leaf("paybill_cli.tenants:resume", "Lift the operator's hold on a tenant."),
                "offboard": Leaf("paybill_cli.tenants:offboard", "Let a tenant go: export, close, keep."),
                "portal": Leaf("paybill_cli.tenants:portal", "Get a link to the provider's own pages for a tenant."),
            },
        ),
        "provider": Branch(
            "List, compare and backfill billing providers.",
            {
                "list": Leaf(
                    "paybill_cli.providers:list_all",
                    "List the billing providers of this installation, and what each can do.",
                ),
                "backfill": Leaf(
                    "paybill_cli.backfill:backfill", "Make tenants of customers that a provider has already."
                ),
                "reconcile": Leaf(
                    "paybill_cli.providers:reconcile",
                    "Compare all subscriptions at a provider with ours, and repair what differs.",
                ),
                "reconciliations": Leaf(
                    "paybill_cli.providers:reconciliations", "List reconciliations, the newest first."
                ),
                "stop": Leaf(
                    "paybill_cli.providers:stop", "End a reconciliation where it is; what it has repaired stays."
                ),
                "drifts": Leaf(
                    "paybill_cli.providers:drifts",
                    "List where a provider and we differed, and whether it was repaired.",
                ),
            },
        ),
        "subscription": Branch(
            "Look at subscriptions, and change them.",
            {
                "list": Leaf("paybill_cli.subscriptions:list_all", "List subscriptions in the order of their ids."),
                "show": Leaf(
                    "paybill_cli.subscriptions:show", "Show one subscription, as its provider showed it last."
                ),
                "change": Leaf("paybill_cli.subscriptions:change", "Change a subscription's plan, seats or interval."),
                "cancel": Leaf(
                    "paybill_cli.subscriptions:cancel",
                    "Cancel a subscription, now or when what is paid for is over.",
                ),
                "reactivate": Leaf(
                    "paybill_cli.subscriptions:reactivate",
                    "Take back what waits for the end of the period: a cancellation, or a change.",
                ),
                "pause": Leaf(
                    "paybill_cli.subscriptions:pause",
                    "Pause a subscription: no access and nothing collected until it is resumed.",
                ),
                "resume": Leaf("paybill_cli.subscriptions:resume", "Resume a subscription that is paused."),
                "changes": Leaf(
                    "paybill_cli.changes:changes", "List changes of subscriptions, in the order of their ids."
                ),
                "discard": Leaf("paybill_cli.changes:discard", "Give up a change that is not confirmed yet."),
            },
        ),
        "manual": Branch(
            "Customers who pay by invoice: offers, orders, payments.",
            {
                "offers": Leaf("paybill_cli.manual:offers", "List what was offered and not ordered yet."),
                "offer": Leaf(
                    "paybill_cli.manual:offer", "Offer a tenant something, instead of what was offered before."
                ),
                "show": Leaf("paybill_cli.manual:show", "Show a tenant's offer, contract and invoices."),
                "accept": Leaf(
                    "paybill_cli.manual:accept",
                    "Take a customer's purchase order: access begins, and an invoice is issued.",
                ),
                "invoices": Leaf(
                    "paybill_cli.manual:invoices", "List invoices: those that are owed, and the newest of the rest."
                ),
                "paid": Leaf("paybill_cli.manual:paid", "Note that the money of an invoice has come."),
                "void": Leaf("paybill_cli.manual:void", "Have nobody owe an invoice any more. This cannot be undone."),
            },
        ),
        "usage": Branch(
            "See what tenants use, and prove that it is what is billed.",
            {
                "show": Leaf("paybill_cli.usage:show", "Show what a tenant uses now, of what it may use."),
                "windows": Leaf(
                    "paybill_cli.usage:windows", "List windows of usage, those that are open and those that are closed."
                ),
                "consume": Leaf(
                    "paybill_cli.usage:consume", "Count usage if the plan allows it; exit code 6 when it does not."
                ),
                "report": Leaf(
                    "paybill_cli.usage:report",
                    "Have a window's value sent to the provider again.",
                ),
                "prove": Leaf(
                    "paybill_cli.usage:prove", "Prove that usage in is usage billed; exit code 1 when it is not."
                ),
            },
        ),
        "licence": Branch(
            "Issue, renew and revoke licences, and verify one offline.",
            {
                "issue": Leaf(
                    "paybill_cli.licences:issue", "Issue the licence of the subscription that entitles a tenant."
                ),
                "list": Leaf("paybill_cli.licences:list_all", "List licences in the order of their ids."),
                "show": Leaf("paybill_cli.licences:show", "Show a licence and its machines, or print its text."),
                "renew": Leaf("paybill_cli.licences:renew", "Sign a licence anew, without waiting for its time."),
                "revoke": Leaf(
                    "paybill_cli.licences:revoke",
                    "Take a licence back: it goes on the signed list, and its seats are free.",
                ),
                "activate": Leaf(
                    "paybill_cli.licences:activate",
                    "Let a machine use a seat of a licence.",
                ),
                "deactivate": Leaf("paybill_cli.licences:deactivate", "Give a machine's seat back."),
                "keys": Leaf(
                    "paybill_cli.licences:keys",
                    "Print the public keys that licences are verified with, as a JWK set.",
                ),
                "rotate-keys": Leaf(
                    "paybill_cli.licences:rotate_keys", "Have licences signed with a new key from now on."
                ),
                "verify": Leaf(
                    "paybill_cli.licence_verify:verify",
                    "Say whether a licence is good, offline; exit code 1 when it is not.",
                ),
            },
        ),
        "plans": Branch(
            "Check, compare and publish what is sold.",
            {
                "lint": Leaf(
                    "paybill_cli.plans:lint",
                    "Check a catalogue without a running stack; exit code 1 when it has flaws.",
                ),
                "diff": Leaf(
                    "paybill_cli.plans:diff",
                    "Show what publishing a file would change; exit code 6 when it is refused.",
                ),
                "publish": Leaf("paybill_cli.plans:publish", "Sell what a catalogue says from now on."),
                "move": Leaf("paybill_cli.moves:move", "Move everybody from one plan version to another."),
                "moves": Leaf("paybill_cli.moves:moves", "List moves and how far each is, or who was refused by one."),
                "pause-move": Leaf(
                    "paybill_cli.moves:pause", "Pause a move: nobody more is asked until it is resumed."
                ),
                "resume-move": Leaf("paybill_cli.moves:resume", "Resume a move where it was paused."),
                "list": Leaf("paybill_cli.plans:list_all", "List the plan versions on sale."),
                "show": Leaf(
                    "paybill_cli.plans:show", "Show one plan version; the newest on sale when no version is named."
                ),
            },
        ),
        "entitlement": Branch(
            "See what a tenant may use, and add to its plan.",
            {
                "show": Leaf(
                    "paybill_cli.entitlements:show",
                    "Show what a tenant may use, and where that differs from its plan.",
                ),
                "check": Leaf(
                    "paybill_cli.entitlements:check",
                    "Ask whether a tenant may use a feature now; exit code 6 when it may not.",
                ),
                "override": Leaf(
                    "paybill_cli.entitlements:override",
                    "Give a tenant a feature other than its plan's, for ever or for a time.",
                ),
                "grant": Leaf(
                    "paybill_cli.entitlements:grant", "Give a tenant more of a feature, for ever or for a time."
                ),
                "withdraw": Leaf("paybill_cli.entitlements:withdraw", "End an override or a grant now."),
            },
        ),
        "webhook": Branch(
            "See what billing providers sent, and what waits.",
            {
                "waiting": Leaf(
                    "paybill_cli.webhooks:waiting", "List what is still to be looked at there, the longest tried first."
                ),
                "retry": Leaf("paybill_cli.webhooks:retry", "Have an object that waits looked at now."),
                "list": Leaf("paybill_cli.webhooks:list_all", "List messages of the last 30 days, the last first."),
            },
        ),
        "events": Branch(
            "Read the log, publish, and decide about what is stuck.",
            {
                "tail": Leaf("paybill_cli.tail:tail", "Follow the log, from any sequence on."),
                "show": Leaf("paybill_cli.facts:show", "Show one fact: its headers and its payload."),
                "publish": Leaf("paybill_cli.publish:publish", "Offer an event to the owner of its type."),
                "schema": Leaf("paybill_cli.facts:schema", "List the event types, or print one's JSON Schema."),
                "quarantine": Leaf("paybill_cli.stuck:quarantine", "List what could not be handled or was refused."),
                "redrive": Leaf("paybill_cli.stuck:redrive", "Have a parked fact tried again now."),
                "skip": Leaf("paybill_cli.stuck:skip", "Give a parked fact up, so that its tenant's queue goes on."),
            },
        ),
        "replay": Leaf("paybill_cli.replay:replay", "Fold the log and compare it with the live state."),
        "doctor": Leaf("paybill_cli.doctor:doctor", "Check every part, and say how to mend what is not well."),
        "bench": Leaf("paybill_cli.bench:bench", "Measure, and compare with peers and targets."),
        "stripe-fake": Leaf("paybill_cli.stripe_fake:stripe_fake", "Run the stand-in for Stripe by itself.", True),
        "version": Leaf("paybill_cli.version:version", "Print the version."),
    },
)
