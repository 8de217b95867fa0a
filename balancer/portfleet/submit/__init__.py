"""The command's side of an operation: its options and targets, handing it to the watcher, following it."""
