"""Groups of commands about what plans of environments are made from, and about their approval."""

from paybill_cli.branches import Branch, Leaf

ENVIRONMENTS = {
    "prices": Branch(
        "Check, publish and show the prices by which plans of environments are estimated.",
        {
            "lint": Leaf(
                "paybill_cli.commands.prices:lint",
                "Check a price book without a running stack; exit code 1 when it has errors.",
            ),
            "publish": Leaf(
                "paybill_cli.commands.prices:publish",
                "Publish a price book: plans are estimated by it from now on.",
            ),
            "list": Leaf(
                "paybill_cli.commands.prices:list_all", "List the price book in force and the earlier versions."
            ),
            "show": Leaf("paybill_cli.commands.prices:show", "Show the prices of the price book in force."),
        },
    ),
    "policy": Branch(
        "Check, publish and show what plans of environments may change unattended.",
        {
            "lint": Leaf(
                "paybill_cli.commands.policies:lint",
                "Check a policy without a running stack; exit code 1 when it has errors.",
            ),
            "publish": Leaf(
                "paybill_cli.commands.policies:publish", "Publish a policy: plans are handled by it from now on."
            ),
            "list": Leaf(
                "paybill_cli.commands.policies:list_all", "List the policy in force and the earlier versions."
            ),
            "show": Leaf("paybill_cli.commands.policies:show", "Show the rules of the policy in force."),
        },
    ),
    "environment": Branch(
        "List and show environments; make, apply and retry their plans.",
        {
            "list": Leaf(
                "paybill_cli.commands.environments:list_all",
                "List environments with their status, access, tier and placement.",
            ),
            "show": Leaf(
                "paybill_cli.commands.environments:show",
                "Show an environment: desired, planned and built, and what it waits for.",
            ),
            "plan": Leaf(
                "paybill_cli.commands.environments:plan",
                "Plan what a tenant is entitled to; request an approval if it needs one.",
            ),
            "apply": Leaf(
                "paybill_cli.commands.environments:apply",
                "Apply a plan that is approved or needs no approval.",
            ),
            "move": Leaf(
                "paybill_cli.commands.environments:move",
                "Plan a move to another placement, and request its approval.",
            ),
            "certificate": Leaf(
                "paybill_cli.commands.purges:certificate",
                "Show what a purge deleted, and how its absence was verified.",
            ),
            "drift": Leaf(
                "paybill_cli.commands.environment_drift:drift",
                "Compare environments with what exists, and list the differences.",
            ),
            "retry": Leaf(
                "paybill_cli.commands.environments:retry",
                "Build a failed environment again, by the current blueprint.",
            ),
            "credentials": Leaf(
                "paybill_cli.commands.credentials:credentials",
                "Show a tenant's logins and the references of their passwords.",
            ),
        },
    ),
    "approval": Branch(
        "List, show, approve and reject plans and calls of agents that wait for a person.",
        {
            "list": Leaf(
                "paybill_cli.commands.approvals:list_all",
                "List the last approval of each environment and of each agent's run.",
            ),
            "show": Leaf(
                "paybill_cli.commands.approvals:show",
                "Show an approval, with its plan or its call.",
            ),
            "approve": Leaf(
                "paybill_cli.commands.approvals:approve",
                "Approve a plan or a call: it can be executed once, until it expires.",
            ),
            "reject": Leaf(
                "paybill_cli.commands.approvals:reject",
                "Reject a plan or a call.",
            ),
        },
    ),
}
