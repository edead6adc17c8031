"""`paybill demo`: runs the main job on real parts, and checks each step."""
