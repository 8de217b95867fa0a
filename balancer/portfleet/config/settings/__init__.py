"""The one table of settings: every key of fleet.toml with its kind, range, example, meaning, and what a change costs.

From it come the reading of fleet.toml (load), the example of `portfleet init` (example), the JSON schema (schema) and
docs/configuration.md (script/docs). A default stands with its field in core/model, which may not import this; a Table
takes it from there. To add a key: a field there, a row here, then script/docs.
"""

from portfleet.config.settings.drain import DRAIN
from portfleet.config.settings.fleet import FLEET
from portfleet.config.settings.forward import FORWARD
from portfleet.config.settings.metrics import METRICS
from portfleet.config.settings.page import PAGE
from portfleet.config.settings.probe import PROBE
from portfleet.config.settings.service import SERVICE

__all__ = ["DRAIN", "FLEET", "FORWARD", "METRICS", "PAGE", "PROBE", "SERVICE", "TABLES"]

#: In the order of the example and the reference.
TABLES = (SERVICE, PROBE, DRAIN, FLEET, FORWARD, METRICS, PAGE)
