/* A latency histogram in the manner of HdrHistogram: 64 linear steps within each power of two, so a value is
 * known to 1/64 (1.6 %) from 1 ns to 18 minutes, and recording costs one increment and no branch on the range. */
#ifndef PORTFLEET_HISTOGRAM_H
#define PORTFLEET_HISTOGRAM_H

#include <stdint.h>
#include <string.h>

enum { STEP_BITS = 6, STEPS = 1 << STEP_BITS, BUCKETS = STEPS * (41 - STEP_BITS) };

struct histogram {
    uint64_t counts[BUCKETS];
    uint64_t total, max;
};

/* The bucket of a value in nanoseconds. */
static inline unsigned histogram_index(uint64_t ns)
{
    int power = 63 - __builtin_clzll(ns | STEPS);
    unsigned index = ((unsigned)(power - STEP_BITS) << STEP_BITS) + (unsigned)(ns >> (power - STEP_BITS));
    return index < BUCKETS ? index : BUCKETS - 1;
}

static inline void histogram_reset(struct histogram *h) { memset(h, 0, sizeof *h); }

/* Add one value in nanoseconds; values over 2^40 ns land in the last bucket, `max` stays exact. */
static inline void histogram_record(struct histogram *h, uint64_t ns)
{
    h->counts[histogram_index(ns)]++;
    h->total++;
    if (ns > h->max)
        h->max = ns;
}

/* The upper edge, in microseconds, of the bucket that holds quantile `q` (0..1), at most the maximum; 0 if empty. */
static inline double histogram_us(const struct histogram *h, double q)
{
    uint64_t wanted = (uint64_t)(q * (double)h->total), seen = 0;
    if (wanted < 1)
        wanted = 1;
    for (unsigned i = 0; i < BUCKETS; i++) {
        seen += h->counts[i];
        if (seen >= wanted) {
            unsigned shift = i < 2 * STEPS ? 0 : (i >> STEP_BITS) - 1;
            uint64_t low = (uint64_t)(i - (shift << STEP_BITS)) << shift;
            uint64_t edge = low + (1ull << shift) - 1;
            return (double)(edge < h->max ? edge : h->max) / 1e3;
        }
    }
    return 0;
}

/* How many values were in buckets above that of `ns`. */
static inline uint64_t histogram_above(const struct histogram *h, uint64_t ns)
{
    uint64_t found = 0;
    for (unsigned i = histogram_index(ns) + 1; i < BUCKETS; i++)
        found += h->counts[i];
    return found;
}

#endif
