"""Pure values and decisions: the fleet as configured, desired and observed, and the plan between them.

Nothing here reaches the operating system, a socket or a clock; tests/unit/test_layers.py walks the imports.
"""
