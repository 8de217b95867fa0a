"""Hand-off of established connections to another process: docs/handoff.md."""
