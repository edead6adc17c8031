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
}
