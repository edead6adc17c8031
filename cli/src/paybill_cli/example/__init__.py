"""`paybill up --example`: a product with data, and an agent that works on it."""
