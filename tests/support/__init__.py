"""What tests, the demo and the benchmarks share: real boxes made of namespaces, and real clients in them."""
