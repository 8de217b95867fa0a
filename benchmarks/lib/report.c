#include "report.h"

#include <dirent.h>
#include <stdio.h>

double cpu_seconds(int pid)
{
    char path[64 + sizeof(((struct dirent *)0)->d_name)];
    snprintf(path, sizeof path, "/proc/%d/task", pid);
    DIR *tasks = opendir(path);
    if (!tasks)
        return -1;
    double total = 0;
    for (struct dirent *entry; (entry = readdir(tasks));) {
        snprintf(path, sizeof path, "/proc/%d/task/%s/schedstat", pid, entry->d_name);
        FILE *file = entry->d_name[0] == '.' ? NULL : fopen(path, "r");
        unsigned long long ns;
        if (file && fscanf(file, "%llu", &ns) == 1)
            total += (double)ns / 1e9;
        if (file)
            fclose(file);
    }
    closedir(tasks);
    return total;
}

void print_event(const char *name, uint64_t now, uint64_t count)
{
    printf("{\"event\": \"%s\", \"monotonic\": %.6f, \"count\": %llu}\n", name, (double)now / 1e9,
           (unsigned long long)count);
    fflush(stdout);
}

void print_result(const struct options *o, const struct results *r)
{
    double seconds = (double)(r->end - r->start) / 1e9;
    const struct histogram *h = &r->latency;
    printf("{\"event\": \"result\", \"monotonic\": %.6f, \"connections\": %u, \"seconds\": %.4f, "
           "\"requests\": %llu, \"rps\": %.1f, ",
           (double)r->start / 1e9, o->connections, seconds, (unsigned long long)r->requests,
           seconds > 0 ? (double)r->requests / seconds : 0);
    printf("\"latency_us\": {\"p50\": %.1f, \"p90\": %.1f, \"p99\": %.1f, \"p999\": %.1f, \"max\": %.1f}, ",
           histogram_us(h, .5), histogram_us(h, .9), histogram_us(h, .99), histogram_us(h, .999), (double)h->max / 1e3);
    printf("\"over_10ms\": %llu, ", (unsigned long long)histogram_above(h, 10000000));
    /* requests sent with no reply in the grace period are lost, beside those a later reply overtook */
    uint64_t unanswered = r->sent > r->replies ? r->sent - r->replies : 0;
    uint64_t errors = r->refused + r->reset + r->full + unanswered + (o->mode == PARTIAL ? 0 : r->closed);
    for (int v = REPLY_LOST; v < VERDICTS; v++)
        errors += r->wrong[v];
    printf("\"connected\": %llu, \"sent\": %llu, \"replies\": %llu, \"errors\": %llu, \"unanswered\": %llu, "
           "\"waiting\": %llu, "
           "\"lost\": %llu, \"duplicated\": %llu, \"mixed_up\": %llu, \"corrupt\": %llu, "
           "\"refused\": %llu, \"closed\": %llu, \"reset\": %llu, \"full\": %llu, ",
           (unsigned long long)r->connected, (unsigned long long)r->sent, (unsigned long long)r->replies,
           (unsigned long long)errors, (unsigned long long)unanswered, (unsigned long long)r->waiting,
           (unsigned long long)r->wrong[REPLY_LOST],
           (unsigned long long)r->wrong[REPLY_DUPLICATED], (unsigned long long)r->wrong[REPLY_MIXED_UP],
           (unsigned long long)r->wrong[REPLY_CORRUPT], (unsigned long long)r->refused,
           (unsigned long long)r->closed, (unsigned long long)r->reset, (unsigned long long)r->full);
    printf("\"client_busy\": %.3f, \"cpu\": [", seconds > 0 ? (r->own_after - r->own_before) / seconds : 0);
    for (int i = 0; i < o->pid_count; i++) {
        double used = r->cpu_after[i] - r->cpu_before[i];
        if (r->cpu_before[i] < 0 || r->cpu_after[i] < 0)
            printf("%snull", i ? ", " : "");
        else
            printf("%s{\"pid\": %d, \"seconds\": %.4f, \"us_per_request\": %.3f}", i ? ", " : "", o->pids[i], used,
                   r->requests ? used * 1e6 / (double)r->requests : 0);
    }
    printf("], \"timeline\": [");
    for (unsigned i = 0, first = 1; i < r->timeline_length; i++) {
        if (!r->timeline[i].count)
            continue;
        printf("%s[%u, %llu, %.1f]", first ? "" : ", ", i * o->timeline_ms, (unsigned long long)r->timeline[i].count,
               (double)r->timeline[i].max / 1e3);
        first = 0;
    }
    printf("]}\n");
    fflush(stdout);
}
