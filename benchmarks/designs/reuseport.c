/* A process each with a listener of its own on the one port: the kernel chooses by a hash of the four-tuple. */
#include "design.h"

static void design(int listener) { loop(listener); }

int main(int argc, char **argv) { return run_design(argc, argv, true, design); }
