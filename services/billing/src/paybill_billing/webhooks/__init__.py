"""Webhooks: the inbox of messages, and the sync of the objects that they are about."""
