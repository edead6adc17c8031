"""HTTP routes of usage: allowances, consumption, open windows and closed windows."""
