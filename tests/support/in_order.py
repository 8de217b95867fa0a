"""How pytest-xdist hands out tests: one by one off one queue in their order, or a file at once if its tests share."""

from __future__ import annotations

import re
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

#: A set-up of a whole file is not to be made by each worker.
_SHARED = re.compile(r'@pytest\.fixture\(.*scope="module"')


class InOrder(LoadScopeScheduling):  # type: ignore[misc] # xdist has no types
    """Gives what comes next to whoever has little left; so what is timed comes last, when the rest is over."""

    def __init__(self, config: pytest.Config, log: Any) -> None:
        super().__init__(config, log)
        config.option.loadscopereorder = False
        self._shared: dict[str, bool] = {}

    def _split_scope(self, nodeid: str) -> str:
        """Return what is handed out together with ``nodeid``."""
        file = nodeid.partition("::")[0]
        if file not in self._shared:
            self._shared[file] = bool(_SHARED.search((self.config.rootpath / file).read_text()))
        return file if self._shared[file] else nodeid
