"""Where a training computes: device, threads, processes, and the batches that feed them."""
