"""A blueprint with two pooled tiers, and the outputs of their resources, for tests without servers."""

from paybill_contracts.event import digest
from paybill_definitions.blueprints_file import read_blueprint
from paybill_provisioner.domain.blueprints import BLUEPRINT_ID, Blueprints, PublishedBlueprint

_TIER = """
  - tier: {tier}
    placement: pooled
    cloud: local
    credentials: at_once
    resources:
      - {{resource: secret.database}}
      - {{resource: bucket.data}}
      - {{resource: database.main}}
      - {{resource: schema.main, in_database: database.main, tables: [documents]}}
      - {{resource: role.main, in_schema: schema.main, secret: secret.database, connection_limit: 5}}"""
_FILE = """
name: standard
version: 1
regions: [eu-central]
cells: [{isolation: pool, count: 1, capacity: 1000}]
tables: [{name: documents, columns: [{name: id, type: text}]}]
tiers:"""

CONTENT = read_blueprint(_FILE + "".join(_TIER.format(tier=tier) for tier in ("starter", "business")), "sample").content
BLUEPRINT = Blueprints(id=BLUEPRINT_ID, in_force=(PublishedBlueprint(content=CONTENT, content_hash=digest(CONTENT)),))
OUTPUTS = {
    "secret.database": {"secret": "secret://provisioner/environments/x/database?v=1"},
    "bucket.data": {"bucket": "x"},
    "database.main": {"host": "127.0.0.1", "port": "5432", "database": "pool_eu_central"},
    "schema.main": {"schema_name": "product"},
    "role.main": {"username": "t_1"},
}
