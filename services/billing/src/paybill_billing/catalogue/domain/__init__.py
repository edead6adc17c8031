"""Rules of the catalogue: publication, differences between catalogues, and buildable tiers."""
