"""nftables and conntrack as a data plane."""
