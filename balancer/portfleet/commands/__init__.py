"""The verbs of the command line. Each is a module of its own in this package, with its EXAMPLES.

Beside them, what the verbs need of the two processes that look after a fleet: asked and told before anything else.
"""

#: The verbs by what they are for, as the top help groups them.
GROUPS = {
    "set up": {
        "init": "write a commented example of fleet.toml",
        "check": "check the config and show every problem at once",
        "doctor": "check this machine and print the command that fixes each problem",
        "unit": "print the systemd unit that starts the fleet at boot",
        "completion": "print the completion script for bash, zsh or fish",
    },
    "run": {
        "plan": "show what apply would do, in words or as the kernel gets it",
        "apply": "make the running fleet match the config",
        "up": "start supervisord if it is not running, then apply",
        "down": "stop everything and remove our rules, and nothing else",
    },
    "look": {
        "status": "show the desired and actual state of each instance",
        "top": "live view of how busy each instance is",
        "metrics": "print the metrics for Prometheus' node_exporter",
        "logs": "show the logs of a service or an instance",
        "explain": "say which slot and instance a client's address gets",
        "events": "show what happened to the fleet, and go on showing it",
        "history": "show what was done, by whom, and how it ended",
        "lock": "show who is working on a service, since when and why",
    },
    "release": {
        "cutover": "make the other colour live with a new release",
        "rollback": "return to the previous release",
        "restart": "restart instances one by one, connections handed off first",
        "signal": "send a service's daemons a signal, to read their files again",
        "cancel": "cancel the operation that runs on a service",
    },
    "move connections": {
        "drain": "send an instance no new connections; let the old ones finish or hand them off",
        "undrain": "let drained instances serve again",
        "maint": "drain an instance, then stop it until undrain",
        "migrate": "move an instance's share to another instance or box",
        "scale": "run another number of instances",
        "rebalance": "even out established connections over the instances",
        "pin": "send one source address or network to a chosen instance",
        "unpin": "let a pinned source go where its slot leads again",
    },
    "keep out": {
        "deny": "refuse a source's new connections, for a time or for good",
        "undeny": "let a denied source connect again",
    },
    "more boxes": {
        "export": "print what another box needs to point its slots as this one does",
        "import": "take over what another box exported",
        "evacuate": "move the connections of this whole box to another",
        "forward": "send clients' packets on to the box of their slot",
    },
    "internal": {
        "watch": "eject, re-admit and heal; run by supervisord",
        "relocate": "move connections between boxes; run by migrate --live",
    },
}
VERBS = {verb: words for verbs in GROUPS.values() for verb, words in verbs.items()}
#: What people try instead, with the commands that do it.
OTHER_WORDS = {
    "reload": ("apply", "signal SERVICE"),
    "kill": ("signal SERVICE HUP", "restart SERVICE/INSTANCE"),
    "start": ("up", "undrain SERVICE/INSTANCE"),
    "stop": ("down", "maint SERVICE/INSTANCE"),
    "ps": ("status",),
    "ls": ("status",),
    "list": ("status",),
    "show": ("status",),
    "health": ("status",),
    "tail": ("logs SERVICE -f",),
    "log": ("logs SERVICE",),
    "deploy": ("cutover SERVICE --release RELEASE",),
    "release": ("cutover SERVICE --release RELEASE",),
    "upgrade": ("cutover SERVICE --release RELEASE",),
    "switch": ("cutover SERVICE --release RELEASE",),
    "undo": ("rollback SERVICE", "cancel SERVICE", "apply --undo"),
    "abort": ("cancel SERVICE",),
    "validate": ("check",),
    "test": ("check", "doctor"),
    "diff": ("plan",),
    "ban": ("deny SERVICE ADDRESS",),
    "block": ("deny SERVICE ADDRESS",),
    "unban": ("undeny SERVICE ADDRESS",),
    "enable": ("undrain SERVICE/INSTANCE",),
    "disable": ("drain SERVICE/INSTANCE",),
    "install": ("unit",),
    "version": ("--version",),
}
#: Operations: the watcher carries them out, so without one they are refused.
OPERATIONS = frozenset(
    {
        "drain",
        "undrain",
        "maint",
        "migrate",
        "evacuate",
        "scale",
        "cutover",
        "rollback",
        "restart",
        "rebalance",
        "cancel",
    }
)
#: Verbs that wait for answers of supervisord: refused while it hangs.
SUPERVISED = frozenset({"plan", "apply", "up", "down", "undrain", "maint", "scale", "cutover", "rollback", "restart"})
#: Verbs that say that no watcher works, and do what they do without one. (`up` starts it, `down` ends it.)
TOLD = OPERATIONS | {"plan", "apply", "pin", "unpin", "deny", "undeny", "import"}
#: Verbs that write a file, a script or a log, for which there is no JSON: they refuse --json.
WITHOUT_JSON = frozenset({"init", "unit", "logs", "metrics", "watch", "completion", "relocate"})
