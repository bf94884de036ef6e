"""An export: its files, how they are made and proven, and how they are opened again."""
