"""The data plane: what spreads new connections over instances. nftables is the first one."""
