"""Deformable butterfly: chains of factors, their projection and their search."""
