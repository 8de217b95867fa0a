"""The metrics' process: it asks the watcher what it knows and tells it to Prometheus and to people."""
