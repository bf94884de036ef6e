"""The networks, one family a file; their names stand in ``models.factory``."""
