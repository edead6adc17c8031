"""The commands; a module is imported when one of its commands runs, and imports its client libraries then."""
