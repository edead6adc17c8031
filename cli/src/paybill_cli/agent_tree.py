"""Group of commands about agents: their bundles."""

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
                "Show the changes of a publication; exit code 6 when it would be refused.",
            ),
            "publish": Leaf(
                "paybill_cli.commands.agent_publications:publish", "Publish a bundle: agents obey it from now on."
            ),
        },
    ),
}
