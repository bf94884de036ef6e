"""The work behind ``sepdeploy.api``: one module per command, each putting the parts together.

Only here do exporters, runtimes, training and measuring meet.
"""
