"""Rules of the provisioner: blueprints, resource graphs and environments. No I/O."""
