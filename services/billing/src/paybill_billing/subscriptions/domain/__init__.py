"""Rules of accounts, subscriptions, payments, changes, expiry and plan migrations."""
