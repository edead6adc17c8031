"""Billing provider `manual`: customers who order by purchase order and pay by invoice."""
