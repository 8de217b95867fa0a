/* A pool of processes forked in advance, one listener that they share: the first that is free accepts (EPOLLEXCLUSIVE
 * wakes one of them), as nginx does by default. */
#include "design.h"

static void design(int listener) { loop(listener); }

int main(int argc, char **argv) { return run_design(argc, argv, false, design); }
