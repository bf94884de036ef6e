"""Ranks that adapt while a network trains."""
