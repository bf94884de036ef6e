"""The recipe of a training: its keys, what they exclude, and how it is read. Needs no torch."""
