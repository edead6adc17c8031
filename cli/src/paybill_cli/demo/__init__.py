"""The main job on real parts, in front of the reader's eyes: what `paybill demo` shows, and checks."""
