"""fleet.toml: read, checked with every problem at once, and turned into values of core/model."""
