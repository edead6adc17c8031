"""Plans, prices and meters on sale, and the tiers that environments can be built from."""
