"""Groups of commands about access: installations, API keys, and subscribers of events."""

from paybill_cli.branches import Branch, Leaf

ACCESS = {
    "context": Branch(
        "Name installations and choose one.",
        {
            "add": Leaf(
                "paybill_cli.commands.contexts:add",
                "Remember an installation under a name.",
            ),
            "use": Leaf("paybill_cli.commands.contexts:use", "Choose the installation that commands use from now on."),
            "list": Leaf(
                "paybill_cli.commands.contexts:list_all", "List the installations and which of them commands use."
            ),
            "remove": Leaf(
                "paybill_cli.commands.contexts:remove",
                "Forget an installation; nothing of the installation itself changes.",
            ),
        },
    ),
    "key": Branch(
        "Create, list and revoke API keys of persons and programs.",
        {
            "create": Leaf("paybill_cli.commands.api_keys:create", "Create an API key, which is shown only now."),
            "list": Leaf("paybill_cli.commands.api_keys:list_all", "List API keys, also expired and revoked ones."),
            "revoke": Leaf(
                "paybill_cli.commands.api_keys:revoke", "Revoke an API key: every service refuses it within a second."
            ),
            "rotate": Leaf(
                "paybill_cli.commands.api_keys:rotate",
                "Replace the operator's key of a local stack, and show the new one.",
            ),
        },
    ),
    "signing-key": Branch(
        "Replace and withdraw the keys with which services sign their facts.",
        {
            "list": Leaf(
                "paybill_cli.commands.signing_keys:list_all",
                "List the signing keys of all services, with the sequences that they sign.",
            ),
            "rotate": Leaf("paybill_cli.commands.signing_keys:rotate", "Replace the signing key of a service."),
            "withdraw": Leaf(
                "paybill_cli.commands.signing_keys:withdraw",
                "Withdraw an earlier signing key: later facts of it are refused.",
            ),
        },
    ),
    "subscriber": Branch(
        "Let other services read events.",
        {
            "create": Leaf(
                "paybill_cli.commands.subscribers:create",
                "Create an identity with which another service reads events.",
            ),
            "list": Leaf(
                "paybill_cli.commands.subscribers:list_all",
                "List the subscribers of this data directory and their rights.",
            ),
            "delete": Leaf(
                "paybill_cli.commands.subscribers:delete",
                "Delete a subscriber: its login, rights and position in the log.",
            ),
        },
    ),
}
