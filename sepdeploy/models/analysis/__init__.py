"""What can be said of a network without running data: counts, spectra, bounds."""
