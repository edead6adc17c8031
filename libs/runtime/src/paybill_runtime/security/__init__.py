"""Identities, secrets and the encryption of personal data.

Guarantees: a value sealed for named recipients opens only for them; a personal value cannot be opened after its data
key was deleted; a secret's reference never comes to mean another value.

Public modules: `data_keys`, `identity`, `secrets`. Nothing is imported here, so that the CLI loads only what it uses.
"""
