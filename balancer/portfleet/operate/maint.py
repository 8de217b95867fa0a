"""maint: a drain that ends with the process stopped; nothing starts it again until undrain."""

from portfleet.operate.drain import run, undo

__all__ = ["run", "undo"]
