/* What a run found, and how it is printed. */
#ifndef PORTFLEET_REPORT_H
#define PORTFLEET_REPORT_H

#include "histogram.h"
#include "options.h"
#include "stream.h"

struct window {
    uint64_t count, max; /* replies whose request was due in this slice of time; their worst latency in ns */
};

struct results {
    struct histogram latency;
    struct window *timeline;
    unsigned timeline_length;
    uint64_t start, end;     /* CLOCK_MONOTONIC, ns, of the measurement */
    uint64_t requests;       /* replies received in the measurement */
    uint64_t sent, replies;  /* whole run, first requests included */
    uint64_t waiting;        /* at the end: bytes without a reply on connections that are still open */
    uint64_t wrong[VERDICTS];
    uint64_t connected, refused, closed, reset, full;
    double cpu_before[MAX_PIDS], cpu_after[MAX_PIDS], own_before, own_after;
};

/* CPU seconds that all threads of `pid` have run, from /proc/PID/task/TID/schedstat; -1 when it is gone. */
double cpu_seconds(int pid);

void print_event(const char *name, uint64_t now, uint64_t count);
void print_result(const struct options *o, const struct results *r);

#endif
