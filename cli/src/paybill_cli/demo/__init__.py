"""`paybill demo`: runs a customer journey on real servers, from sign-up to replay, and checks each step."""
