/* What a connection says is a function of its number and the position in its stream, so that every reply byte can
 * be checked wherever reads split it, and a wrong one can be named: request K of connection C is
 *
 *     CCCCCCCC KKKKKKKKKKKK xxxx...x\n        (8 and 12 hexadecimal digits, filled to the request size)
 *
 * An echo server must give back this stream and nothing else. */
#ifndef PORTFLEET_STREAM_H
#define PORTFLEET_STREAM_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { HEAD = 22 }; /* bytes of both numbers and their spaces: the smallest request is HEAD + 1 with the newline */

enum verdict { REPLY_RIGHT, REPLY_LOST, REPLY_DUPLICATED, REPLY_MIXED_UP, REPLY_CORRUPT, VERDICTS };

static inline void hex(char *at, uint64_t value, int digits)
{
    while (digits--) {
        at[digits] = "0123456789abcdef"[value & 15];
        value >>= 4;
    }
}

/* Write request `k` of connection `id` into `at`; `at` has `size` bytes. */
static inline void stream_request(char *at, unsigned size, uint32_t id, uint64_t k)
{
    hex(at, id, 8);
    at[8] = ' ';
    hex(at + 9, k, 12);
    at[21] = ' ';
    memset(at + HEAD, 'x', size - HEAD - 1);
    at[size - 1] = '\n';
}

/* Name what is wrong with `got` (one reply of `size` bytes) where request `k` of `id` was due. */
static inline enum verdict stream_judge(const char *got, unsigned size, uint32_t id, uint64_t k)
{
    char head[HEAD], *end;
    memcpy(head, got, HEAD);
    if (head[8] != ' ' || head[21] != ' ' || got[size - 1] != '\n')
        return REPLY_CORRUPT;
    head[8] = head[21] = 0;
    uint64_t of = strtoull(head, &end, 16);
    if (*end)
        return REPLY_CORRUPT;
    uint64_t number = strtoull(head + 9, &end, 16);
    if (*end)
        return REPLY_CORRUPT;
    if (of != id)
        return REPLY_MIXED_UP;
    return number < k ? REPLY_DUPLICATED : number > k ? REPLY_LOST : REPLY_CORRUPT;
}

#endif
