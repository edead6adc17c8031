"""HTTP routes of accounts, subscriptions, changes, plan migrations, providers and the customer portal."""
