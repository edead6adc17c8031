"""What tenants run on, as rules: blueprints, the resources they ask for, and the environments made of these."""
