"""The verbs of the command line, in the order people meet them. Each is a module of its own in this package.

Beside them, what the verbs need of the two processes that look after a fleet: asked and told before anything else.
"""

VERBS = {
    "init": "write a commented example of fleet.toml",
    "check": "check the config and show every problem at once",
    "plan": "show what apply would do, in words or as the kernel gets it",
    "apply": "make the running fleet match the config",
    "up": "start supervisord where it is not running, then apply",
    "down": "stop everything and remove our rules, and nothing else",
    "status": "show the desired and actual state of each instance",
    "explain": "say which slot and instance a client's address gets",
    "drain": "give an instance no new connections; let the old ones end or hand them off",
    "undrain": "let drained instances serve again",
    "maint": "drain an instance, then stop it until undrain",
    "migrate": "move an instance's share to another instance or box",
    "scale": "run another number of instances, no connection dropped",
    "pin": "send one source address or network to a chosen instance",
    "unpin": "let a pinned source go where its slot leads again",
    "deny": "refuse a source's new connections, for a time or for good",
    "undeny": "let a denied source connect again",
    "cutover": "make the other colour live with a new release, no connection dropped",
    "rollback": "return to the previous release",
    "restart": "restart instances rolling, connections handed off first",
    "rebalance": "even out established connections over the instances",
    "cancel": "give up the operation that runs on a service",
    "history": "show what was done, by whom, and what came of it",
    "lock": "say who works on a service, since when and why",
    "logs": "show an instance's log",
    "top": "live view of how busy each instance is",
    "watch": "eject, re-admit and heal; run by supervisord",
    "doctor": "check this machine and print the command that fixes each problem",
    "completion": "print a completion script for bash",
}
#: Operations: the watcher carries them out, so without one they are refused.
OPERATIONS = frozenset(
    {"drain", "undrain", "maint", "migrate", "scale", "cutover", "rollback", "restart", "rebalance", "cancel"}
)
#: Verbs that wait for answers of supervisord: refused while it hangs.
SUPERVISED = frozenset({"plan", "apply", "up", "down"})
#: Verbs that say that no watcher works, and do what they do without one. (`up` starts it, `down` ends it.)
TOLD = OPERATIONS | {"plan", "apply", "pin", "unpin", "deny", "undeny"}
#: Verbs that write a file, a script or a log, for which there is no JSON: they refuse --json.
WITHOUT_JSON = frozenset({"init", "logs", "watch", "completion"})
