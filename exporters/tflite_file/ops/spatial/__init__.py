"""Converters of operators that slide over images."""
