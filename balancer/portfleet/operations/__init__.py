"""Long operations: kept in the journal, advanced by the watcher, followed (or not) by the command that asked for them.

``submit`` is the command's side, ``engine`` the watcher's, ``task`` what an operation works with. Each verb is a
coroutine in a module of its own, written as phases that can be entered again after the watcher or the machine
came back: a phase looks at what is before it does anything.
"""
