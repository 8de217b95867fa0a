"""The watcher: keeps the fleet equal to its desired state. It ejects, re-admits, restarts and heals.

``watcher`` holds the parts together over the ``roster`` of who shall run. ``deaths`` (pidfds) and ``prober`` with
``health``, and clients ``dropped`` by the guard, tell who serves, ``judge`` decides who is out, ``ejector`` moves the
slots, ``revival`` (with ``restarts``) brings processes back and ``supervision`` supervisord itself. ``overflow`` says
who takes what is too much for another. ``rules`` hears of changes and ``healer`` repairs them, over a kernel that knows
its own changes (``noted``). ``limits`` and ``warn`` look at the machine, ``server`` answers on run/watch.sock, ``log``
says what happened.
"""
