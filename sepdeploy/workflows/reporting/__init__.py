"""Results as material for decisions: what a report shows, and what differs between results."""
