"""Events that Paybill's services publish, their envelope and the value types in them."""
