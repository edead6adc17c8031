"""HTTP routes of accounts, subscriptions, changes, plan migrations, providers, checkouts and the portal."""
