"""What nftables is like as a data plane."""

from portfleet.dataplane.interface import Traits

TRAITS = Traits(
    name="nftables",
    words="the kernel's table",
    requires="Debian 12 and later, or Linux 5.10 with nft 1.0.2, have it all",
    place="this network namespace's table inet portfleet",
    listen="wildcard",
    families=None,
    sees_clients=True,
    guards_ports=True,
    survives=True,
    own_clients_apart=True,
    services_at_once=8,  # of 32, libnftables takes 180 MB; of 8 it takes 68
    slots_at_once=16_384,
    slots_unnoticed=512,  # the kernel, which may not preempt itself, has a processor for 2 ms
)
