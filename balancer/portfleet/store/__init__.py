"""Files below lib/ and run/: journal, out-set, warnings; atomic writes, locks, and the clock they are stamped by."""
