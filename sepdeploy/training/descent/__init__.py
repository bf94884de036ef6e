"""One step after the other: optimisers, schedule, averages, and when to stop."""
