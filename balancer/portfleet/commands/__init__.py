"""The verbs of the command line, in the order people meet them. Each is a module of its own in this package."""

VERBS = {
    "init": "write a commented example of fleet.toml",
    "check": "check the config and show every problem at once",
    "plan": "show what apply would do, in words or as the kernel gets it",
    "apply": "make what is into what the config asks",
    "up": "start supervisord where it is not running, then apply",
    "down": "stop everything and remove our rules, and nothing else",
    "status": "show wanted beside is, per instance",
    "explain": "say which slot and instance a client's address gets",
    "lock": "say who works on a service, since when and why",
    "logs": "show an instance's log",
    "watch": "eject, re-admit and heal; run by supervisord",
    "doctor": "look for what this machine lacks for the fleet, with the command that mends it",
}
