"""Group of commands about agents: their bundles, keys, runs and freezes."""

from paybill_cli.branches import Branch, Leaf

AGENTS = {
    "agent": Branch(
        "Let agents work on tenants' rows through published workflows.",
        {
            "init": Leaf(
                "paybill_cli.commands.agent_bundles:init",
                "Write resources.yaml from a blueprint, for a person to add labels.",
            ),
            "check": Leaf(
                "paybill_cli.commands.agent_bundles:check",
                "Check a bundle without publishing it; exit code 1 when it has errors.",
            ),
            "diff": Leaf(
                "paybill_cli.commands.agent_publications:diff",
                "Show the changes of a publication; exit code 1 or 6 when it is refused.",
            ),
            "publish": Leaf(
                "paybill_cli.commands.agent_publications:publish", "Publish a bundle: agents obey it from now on."
            ),
            "bundles": Leaf(
                "paybill_cli.commands.agent_publications:bundles",
                "List published bundles, the newest first, and which is in force.",
            ),
            "new": Leaf(
                "paybill_cli.commands.agents:new",
                "Register an agent of one tenant; its key is shown only now.",
            ),
            "list": Leaf("paybill_cli.commands.agents:list_all", "List agents, also ended ones."),
            "end": Leaf("paybill_cli.commands.agents:end", "End an agent: its key is refused from now on."),
            "runs": Leaf("paybill_cli.commands.agent_runs:runs", "List runs of agents' workflows, the newest first."),
            "show": Leaf(
                "paybill_cli.commands.agent_runs:show",
                "Show a run: its inputs, and each action, refusal and approval in order.",
            ),
            "explain": Leaf(
                "paybill_cli.commands.agent_runs:explain",
                "Name the grant and the rule that decided; exit code 6 for a denied call.",
            ),
            "freeze": Leaf(
                "paybill_cli.commands.agent_freezes:freeze",
                "Freeze a tenant's agents, one agent, a workflow, or everything.",
            ),
            "thaw": Leaf(
                "paybill_cli.commands.agent_freezes:thaw", "End a freeze: runs whose time is not over continue."
            ),
            "freezes": Leaf("paybill_cli.commands.agent_freezes:freezes", "List what is frozen now, with the reason."),
        },
    ),
}
