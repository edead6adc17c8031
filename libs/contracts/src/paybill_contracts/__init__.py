"""What Paybill's services say to each other: versioned facts, their envelope and the types inside them."""
