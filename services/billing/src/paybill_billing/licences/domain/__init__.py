"""Rules of licences: lifecycle, seats, signing keys and the revocation list."""
