"""Requests to the kernel's netfilter: threads that share who asks get their own answers."""

from __future__ import annotations

import sys

from support.sandbox import sandbox

#: One asks for what is there, the other for what is not; prints how many answers were the other's, and who waits yet.
_TOGETHER = """
import sys, threading
from portfleet.dataplane.nft.reader import NftReader
sys.setswitchinterval(1e-6)
reader, together, wrong = NftReader("portfleet"), threading.Barrier(2), []
now = reader.generation()
def repeat(ask, answer):
    together.wait()
    wrong.extend(found for _ in range(5000) if (found := ask()) != answer)
questions = (reader.generation, now), (lambda: reader.chains("guard"), {})
threads = [threading.Thread(target=repeat, args=one, daemon=True) for one in questions]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join(20)
print(len(wrong), sum(thread.is_alive() for thread in threads))
"""


def test_threads_that_read_the_rules_side_by_side_get_their_own_answers() -> None:
    with sandbox() as boxes:
        boxes.host.run("nft", "add", "table", "inet", "some")
        assert boxes.host.run(sys.executable, "-c", _TOGETHER).stdout == "0 0\n"
