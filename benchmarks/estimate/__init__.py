"""How the constants of the cost model were fitted, from published times of known networks.

``python -m benchmarks.estimate`` prints how far each group of published latencies is met;
``python -m benchmarks.estimate.fit`` prints the packaged constants anew.
"""
