"""What this machine lacks for nftables and conntrack to serve the fleet."""
