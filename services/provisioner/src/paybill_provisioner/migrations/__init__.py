"""The shape of this service's tables, revision by revision."""
