"""The rules of billing: what is sold, who bought it, what that gives them, and what they used and paid. Pure."""
