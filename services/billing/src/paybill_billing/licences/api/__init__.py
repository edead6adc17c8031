"""HTTP routes of licences, of signing keys, and of the public documents that verifiers fetch."""
