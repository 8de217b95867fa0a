"""maint: a drain that ends with the process stopped; nothing starts it again until undrain."""

from portfleet.operations.drain import run, undo

__all__ = ["run", "undo"]
