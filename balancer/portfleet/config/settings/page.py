"""[page]: what the page that the metrics' process serves may do beside showing."""

from __future__ import annotations

from portfleet.config.kinds import Text
from portfleet.config.settings.table import Effect, Setting, Table
from portfleet.core.model import Page

PAGE = Table(
    "page",
    Page,
    "the page that [metrics] serves",
    (
        Setting(
            "token_file",
            Text(),
            "a file with the token for drain, undrain, cancel and rollback on the page",
            Effect.AT_ONCE,
            '"/etc/portfleet/page.token"',
            more="Whoever knows the token may give these four orders, after they were shown what each would do. The "
            "file is one line of 24 to 200 characters without blanks, it is root's (or the fleet's user's), and no "
            "other user may read it; a relative path is one beside fleet.toml. See [page.md](page.md#orders).",
            change="another token ends all sessions",
            unset="the page is read-only",
        ),
    ),
)
