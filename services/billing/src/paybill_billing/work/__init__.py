"""What billing has done at its providers, and what it learns from them: effects of facts, and the inbox of webhooks."""
