"""All commands and their modules; a module is imported when its command runs, so that `--help` is fast."""

from paybill_cli.access_tree import ACCESS
from paybill_cli.agent_tree import AGENTS
from paybill_cli.branches import Branch, Leaf
from paybill_cli.environment_tree import ENVIRONMENTS

__all__ = ["TREE", "Branch", "Leaf"]

TREE = Branch(
    "Runs and operates Paybill: subscriptions, tenants and their infrastructure.",
    {
        "up": Leaf("paybill_cli.commands.up:up", "Run the whole stack in the foreground, until Ctrl-C."),
        "demo": Leaf("paybill_cli.demo.command:demo", "Run a customer journey on real servers, sign-up to replay."),
        "tenant": Branch(
            "Create, show, suspend, hold and offboard tenants.",
            {
                "create": Leaf("paybill_cli.commands.tenants:create", "Request a new tenant."),
                "list": Leaf("paybill_cli.commands.tenants:list_all", "List tenants in the order of their slugs."),
                "show": Leaf("paybill_cli.commands.tenants:show", "Show one tenant, by slug or id."),
                "suspend": Leaf(
                    "paybill_cli.commands.tenants:suspend", "Suspend a tenant's access and keep all of its data."
                ),
                "resume": Leaf("paybill_cli.commands.tenants:resume", "Lift operators' suspensions of a tenant."),
                "hold": Leaf(
                    "paybill_cli.commands.tenants:hold",
                    "Keep a tenant's data for a legal case; access does not change.",
                ),
                "release": Leaf("paybill_cli.commands.tenants:release", "Release the legal hold of a case."),
                "offboard": Leaf(
                    "paybill_cli.commands.tenants:offboard",
                    "Offboard a tenant: export its data, end its access, retain the data.",
                ),
                "purge": Leaf(
                    "paybill_cli.commands.purges:purge",
                    "Delete everything of a tenant whose retention period is over.",
                ),
                "quarantine": Leaf(
                    "paybill_cli.commands.purges:quarantine",
                    "Take all access from a tenant for its security, and keep its data.",
                ),
                "end-quarantine": Leaf("paybill_cli.commands.purges:end_quarantine", "End the quarantine of a tenant."),
                "checkout": Leaf(
                    "paybill_cli.commands.tenants:checkout",
                    "Print a link at which a tenant's customer can pay.",
                ),
                "retry": Leaf(
                    "paybill_cli.commands.environments:retry",
                    "Build a failed environment again, by the current blueprint.",
                ),
                "portal": Leaf(
                    "paybill_cli.commands.tenants:portal",
                    "Create a link to the provider's customer portal for a tenant.",
                ),
            },
        ),
        "provider": Branch(
            "List, compare and backfill billing providers.",
            {
                "list": Leaf(
                    "paybill_cli.commands.providers:list_all",
                    "List the billing providers of this installation and their capabilities.",
                ),
                "backfill": Leaf(
                    "paybill_cli.commands.backfill:backfill", "Create tenants for existing customers of a provider."
                ),
                "reconcile": Leaf(
                    "paybill_cli.commands.providers:reconcile",
                    "Compare a provider's subscriptions with Paybill's, and repair differences.",
                ),
                "reconciliations": Leaf(
                    "paybill_cli.commands.providers:reconciliations", "List reconciliations, the newest first."
                ),
                "stop": Leaf("paybill_cli.commands.providers:stop", "Stop a reconciliation; its repairs stay."),
                "drifts": Leaf(
                    "paybill_cli.commands.providers:drifts",
                    "List differences between a provider and Paybill, and their repairs.",
                ),
            },
        ),
        "subscription": Branch(
            "Show and change subscriptions.",
            {
                "list": Leaf(
                    "paybill_cli.commands.subscriptions:list_all", "List subscriptions in the order of their ids."
                ),
                "show": Leaf(
                    "paybill_cli.commands.subscriptions:show",
                    "Show one subscription, as of the last sync with its provider.",
                ),
                "change": Leaf(
                    "paybill_cli.commands.subscriptions:change", "Change a subscription's plan, seats or interval."
                ),
                "cancel": Leaf(
                    "paybill_cli.commands.subscriptions:cancel",
                    "Cancel a subscription, now or at the end of the period that is paid.",
                ),
                "reactivate": Leaf(
                    "paybill_cli.commands.subscriptions:reactivate", "Withdraw a scheduled cancellation or change."
                ),
                "pause": Leaf(
                    "paybill_cli.commands.subscriptions:pause",
                    "Pause a subscription: no access and no payments until it is resumed.",
                ),
                "resume": Leaf("paybill_cli.commands.subscriptions:resume", "Resume a paused subscription."),
                "changes": Leaf(
                    "paybill_cli.commands.changes:changes", "List changes of subscriptions, in the order of their ids."
                ),
                "discard": Leaf("paybill_cli.commands.changes:discard", "Discard a change that is not confirmed yet."),
            },
        ),
        "manual": Branch(
            "Manage offers, orders and invoices for payment by invoice.",
            {
                "offers": Leaf("paybill_cli.commands.manual:offers", "List offers that were not ordered yet."),
                "offer": Leaf(
                    "paybill_cli.commands.manual:offer", "Make an offer to a tenant; it replaces an earlier offer."
                ),
                "show": Leaf("paybill_cli.commands.manual:show", "Show a tenant's offer, contract and invoices."),
                "accept": Leaf(
                    "paybill_cli.commands.manual:accept",
                    "Accept a customer's purchase order: access begins, and an invoice is issued.",
                ),
                "invoices": Leaf(
                    "paybill_cli.commands.manual:invoices",
                    "List invoices: all unpaid ones, and the newest of the others.",
                ),
                "paid": Leaf("paybill_cli.commands.manual:paid", "Record that an invoice is paid."),
                "void": Leaf("paybill_cli.commands.manual:void", "Void an invoice. This cannot be undone."),
            },
        ),
        "usage": Branch(
            "Show usage, and prove that recorded usage is billed usage.",
            {
                "show": Leaf("paybill_cli.commands.usage:show", "Show a tenant's current usage and its limits."),
                "windows": Leaf("paybill_cli.commands.usage:windows", "List open and closed windows of usage."),
                "consume": Leaf(
                    "paybill_cli.commands.usage:consume",
                    "Count usage if the plan allows it; exit code 6 when it does not.",
                ),
                "report": Leaf("paybill_cli.commands.usage:report", "Report a window's value to the provider again."),
                "prove": Leaf(
                    "paybill_cli.commands.usage:prove",
                    "Prove that recorded usage is billed usage; exit code 1 when it is not.",
                ),
            },
        ),
        "licence": Branch(
            "Issue, renew and revoke licences, and verify one offline.",
            {
                "issue": Leaf(
                    "paybill_cli.commands.licences:issue", "Issue the licence of a tenant's entitling subscription."
                ),
                "list": Leaf("paybill_cli.commands.licences:list_all", "List licences in the order of their ids."),
                "show": Leaf(
                    "paybill_cli.commands.licences:show", "Show a licence and its machines, or print its token."
                ),
                "renew": Leaf("paybill_cli.commands.licences:renew", "Renew a licence before its scheduled renewal."),
                "revoke": Leaf("paybill_cli.commands.licences:revoke", "Revoke a licence, and release its seats."),
                "activate": Leaf(
                    "paybill_cli.commands.licences:activate", "Activate a machine: it uses a seat of the licence."
                ),
                "deactivate": Leaf("paybill_cli.commands.licences:deactivate", "Release the seat of a machine."),
                "keys": Leaf(
                    "paybill_cli.commands.licences:keys", "Print the public keys that verify licences, as a JWK set."
                ),
                "rotate-keys": Leaf(
                    "paybill_cli.commands.licences:rotate_keys", "Sign licences with a new key from now on."
                ),
                "verify": Leaf(
                    "paybill_cli.commands.licence_verify:verify",
                    "Verify a licence offline; exit code 1 when it is not valid.",
                ),
            },
        ),
        "plans": Branch(
            "Check, compare and publish plans, and migrate subscriptions.",
            {
                "lint": Leaf(
                    "paybill_cli.commands.plans:lint",
                    "Check a catalogue without a running stack; exit code 1 when it has errors.",
                ),
                "diff": Leaf(
                    "paybill_cli.commands.plans:diff",
                    "Show the changes of a publication; exit code 6 when it would be refused.",
                ),
                "publish": Leaf(
                    "paybill_cli.commands.plans:publish",
                    "Publish a catalogue: its plan versions are on sale from now on.",
                ),
                "move": Leaf(
                    "paybill_cli.commands.plan_migrations:start",
                    "Migrate all subscriptions from one plan version to another.",
                ),
                "moves": Leaf(
                    "paybill_cli.commands.plan_migrations:list_all",
                    "List migrations, or the subscriptions that one could not migrate.",
                ),
                "pause-move": Leaf(
                    "paybill_cli.commands.plan_migrations:pause",
                    "Pause a migration: no further subscription is migrated until it is resumed.",
                ),
                "resume-move": Leaf("paybill_cli.commands.plan_migrations:resume", "Resume a paused migration."),
                "list": Leaf("paybill_cli.commands.plans:list_all", "List the plan versions on sale."),
                "show": Leaf(
                    "paybill_cli.commands.plans:show", "Show one plan version; by default the newest on sale."
                ),
            },
        ),
        "blueprint": Branch(
            "Check, render, compare and publish definitions of environments.",
            {
                "lint": Leaf(
                    "paybill_cli.commands.blueprints:lint",
                    "Check a blueprint without a running stack; exit code 1 when it has errors.",
                ),
                "render": Leaf(
                    "paybill_cli.commands.blueprints:render",
                    "Show the resources of a tier's tenant, without a running stack.",
                ),
                "diff": Leaf(
                    "paybill_cli.commands.blueprints:diff",
                    "Show the changes of a publication; exit code 6 when it would be refused.",
                ),
                "publish": Leaf(
                    "paybill_cli.commands.blueprints:publish",
                    "Publish a blueprint: environments are planned by it from now on.",
                ),
                "list": Leaf(
                    "paybill_cli.commands.blueprints:list_all",
                    "List blueprints with their regions, tiers and cells, and earlier versions.",
                ),
                "show": Leaf(
                    "paybill_cli.commands.blueprints:show",
                    "Show the version of a blueprint that is in force, with its cells.",
                ),
            },
        ),
        "cell": Branch(
            "List and drain the shared stacks of each region.",
            {
                "list": Leaf(
                    "paybill_cli.commands.cells:list_all", "List cells with their tenants, capacity and free places."
                ),
                "drain": Leaf(
                    "paybill_cli.commands.cells:drain", "Stop a cell from taking new tenants; those in it stay."
                ),
            },
        ),
        "entitlement": Branch(
            "Show entitlements, and add overrides and grants to a plan.",
            {
                "show": Leaf(
                    "paybill_cli.commands.entitlements:show",
                    "Show the entitlements of a tenant, and where they differ from its plan.",
                ),
                "check": Leaf(
                    "paybill_cli.commands.entitlements:check",
                    "Check whether a tenant may use a feature now; exit code 6 when it may not.",
                ),
                "override": Leaf(
                    "paybill_cli.commands.entitlements:override",
                    "Override a feature of a tenant's plan, permanently or for a period.",
                ),
                "grant": Leaf(
                    "paybill_cli.commands.entitlements:grant",
                    "Grant a tenant more of a feature, permanently or for a period.",
                ),
                "withdraw": Leaf("paybill_cli.commands.entitlements:withdraw", "End an override or a grant now."),
            },
        ),
        "webhook": Branch(
            "Show webhooks of billing providers, and retry pending syncs.",
            {
                "waiting": Leaf(
                    "paybill_cli.commands.webhooks:waiting",
                    "List provider objects whose sync is pending, those with most attempts first.",
                ),
                "retry": Leaf("paybill_cli.commands.webhooks:retry", "Sync a pending object now."),
                "dismiss": Leaf(
                    "paybill_cli.commands.webhooks:dismiss",
                    "Dismiss the customer of a pending object: it is not ours.",
                ),
                "dismissed": Leaf(
                    "paybill_cli.commands.webhooks:dismissed",
                    "List dismissed customers, with the number of their dismissed objects.",
                ),
                "refused": Leaf(
                    "paybill_cli.commands.webhooks:refused",
                    "List refused webhooks, counted by reason, the latest first.",
                ),
                "list": Leaf(
                    "paybill_cli.commands.webhooks:list_all", "List webhooks of the last 30 days, the newest first."
                ),
            },
        ),
        "incident": Branch(
            "Show, assign and close the problems that the services found.",
            {
                "list": Leaf(
                    "paybill_cli.commands.incidents:list_all",
                    "List the problems that the services found, the oldest first.",
                ),
                "show": Leaf(
                    "paybill_cli.commands.incidents:show",
                    "Show an incident: the evidence, the owner, and the command that helps.",
                ),
                "assign": Leaf(
                    "paybill_cli.commands.incidents:assign", "Make a person or a team the owner of an incident."
                ),
                "close": Leaf(
                    "paybill_cli.commands.incidents:close",
                    "Close an incident; it opens again when the service finds the problem again.",
                ),
            },
        ),
        "jobs": Branch(
            "Show background jobs, and retry or cancel them.",
            {
                "list": Leaf(
                    "paybill_cli.commands.jobs:list_all", "List background jobs, in the order of their class and time."
                ),
                "show": Leaf("paybill_cli.commands.jobs:show", "Show a background job."),
                "retry": Leaf("paybill_cli.commands.jobs:retry", "Run a job now, with all attempts again."),
                "cancel": Leaf(
                    "paybill_cli.commands.jobs:cancel",
                    "End jobs without another attempt; an attempt that runs now ends by itself.",
                ),
            },
        ),
        "events": Branch(
            "Read the log, publish events, and resolve failed ones.",
            {
                "tail": Leaf("paybill_cli.commands.tail:tail", "Follow the log: one sentence for each event."),
                "show": Leaf("paybill_cli.commands.events:show", "Show one event: its headers and its payload."),
                "publish": Leaf(
                    "paybill_cli.commands.publish:publish", "Publish an event to the intake of its type's owner."
                ),
                "schema": Leaf(
                    "paybill_cli.commands.events:schema", "List the event types, or print the JSON Schema of one."
                ),
                "quarantine": Leaf(
                    "paybill_cli.commands.quarantine:quarantine",
                    "List events that could not be handled or were refused.",
                ),
                "void": Leaf(
                    "paybill_cli.commands.void:void",
                    "Declare an event void, and list what was decided because of it.",
                ),
                "redrive": Leaf("paybill_cli.commands.quarantine:redrive", "Retry a failed event now."),
                "skip": Leaf(
                    "paybill_cli.commands.quarantine:skip",
                    "Skip a failed event, so that the queue of its tenant continues.",
                ),
            },
        ),
        **ENVIRONMENTS,
        **AGENTS,
        **ACCESS,
        "replay": Leaf(
            "paybill_cli.commands.replay:replay", "Replay the log and compare the result with the live state."
        ),
        "restore": Branch(
            "Restore what a server lost.",
            {
                "stream": Leaf(
                    "paybill_cli.commands.restore:stream", "Rebuild the log from the outboxes of all services."
                ),
            },
        ),
        "why": Leaf(
            "paybill_cli.commands.why:why",
            "Explain a tenant's state, the root cause first.",
        ),
        "doctor": Leaf("paybill_cli.commands.doctor:doctor", "Check every part, and print how to repair each failure."),
        "bench": Leaf("paybill_cli.commands.bench:bench", "Compare throughput and latency with other implementations."),
        "stripe-fake": Leaf("paybill_cli.commands.stripe_fake:stripe_fake", "Run the Stripe fake alone.", True),
        "version": Leaf("paybill_cli.commands.version:version", "Print the version."),
    },
)
