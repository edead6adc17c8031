"""Rules of manual contracts: offers, purchase orders, periods and invoices."""
