"""Migrations of this service's tables, one file for each revision."""
