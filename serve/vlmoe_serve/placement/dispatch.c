/* The split of `dispatch.py` in C, step by step the same; see there for what it does and why.

   B steps, X experts, G ranks. counts [B, X, G] by source, hosts [X, G] 0 or 1, node [G] ascending.
   Out: amounts [B, X, G] by computing rank, traffic [B, G, G] from, to. Returns 0, or 1 when memory ran out.
   flow_by_counts: one step; flow [X, G, G] from, to, what stays at home on the diagonal. */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define MAX_PASSES 20

typedef struct {
    int64_t num_ranks, stream;
    int64_t *load;                    /* [G] */
    int64_t *level, *given, *old;     /* [G], by place among the hosts of one expert */
    int64_t *order;                   /* [G] */
    int64_t *source, *target;         /* [G] */
} scratch;

/* Raise the lowest of the open levels to a common one. level[h] < 0 is shut. given[h] is what each host gets. */
static void fill(scratch *s, int64_t total, int64_t num_hosts) {
    int64_t num_open = 0;
    for (int64_t h = 0; h < num_hosts; h++) {
        s->given[h] = 0;
        if (s->level[h] < 0) continue;
        int64_t p = num_open++;
        for (; p > 0 && s->level[s->order[p - 1]] > s->level[h]; p--) s->order[p] = s->order[p - 1];
        s->order[p] = h;
    }
    int64_t num = 0, sum = 0;
    while (num < num_open) {
        int64_t next = s->level[s->order[num]];
        if (next * num - sum >= total) break;
        sum += next;
        num++;
    }
    if (num == 0) return;
    int64_t common = (total + sum) / num, rest = (total + sum) % num;
    for (int64_t p = 0; p < num; p++)
        s->given[s->order[p]] = common - s->level[s->order[p]] + (p < rest);
}

/* Every token on its own rank, or dealt out to the copies on its node, or to all copies. */
static void nearest(scratch *s, const int32_t *counts, const int32_t *hosts, int64_t num_hosts, const int32_t *node,
                    int32_t *row) {
    for (int64_t h = 0; h < num_hosts; h++) s->old[h] = 0;
    for (int64_t g = 0; g < s->num_ranks; g++) {
        int64_t own = -1, begin = 0, end = 0;
        if (!counts[g]) continue;
        /* hosts ascend and so do nodes: the copies on one node are neighbours */
        for (int64_t h = 0; h < num_hosts; h++) {
            if (hosts[h] == g) own = h;
            if (node[hosts[h]] != node[g]) continue;
            if (begin == end) begin = h;
            end = h + 1;
        }
        if (own >= 0) {
            s->old[own] += counts[g];
            continue;
        }
        if (begin == end) end = num_hosts;
        int64_t share = counts[g] / (end - begin), rest = counts[g] % (end - begin);
        for (int64_t h = begin; h < end; h++) s->old[h] += share + (h - begin < rest);
    }
    for (int64_t h = 0; h < num_hosts; h++) {
        row[hosts[h]] = (int32_t)s->old[h];
        if (s->old[h]) s->load[hosts[h]] += s->old[h] + s->stream;
    }
}

static int64_t cost(const scratch *s, int64_t amount) { return amount ? amount + s->stream : 0; }

/* Fill all shared experts again and again until nothing changes. */
static void make_level(scratch *s, int32_t *amounts, const int64_t *total, const int32_t *shared, int64_t num_shared,
                       const int32_t *host, const int32_t *first, int only_open) {
    for (int pass = 0; pass < MAX_PASSES; pass++) {
        int changed = 0;
        for (int64_t i = 0; i < num_shared; i++) {
            int64_t x = shared[i], num_hosts = first[x + 1] - first[x];
            const int32_t *hosts = host + first[x];
            int32_t *row = amounts + x * s->num_ranks;
            for (int64_t h = 0; h < num_hosts; h++) {
                s->old[h] = row[hosts[h]];
                int64_t base = s->load[hosts[h]] - cost(s, s->old[h]);
                s->level[h] = only_open && !s->old[h] ? -1 : base + s->stream;
            }
            fill(s, total[x], num_hosts);
            for (int64_t h = 0; h < num_hosts; h++) {
                if (s->given[h] == s->old[h]) continue;
                changed = 1;
                s->load[hosts[h]] += cost(s, s->given[h]) - cost(s, s->old[h]);
                row[hosts[h]] = (int32_t)s->given[h];
            }
        }
        if (!changed) return;
    }
}

/* Take copies out of use, the smallest first, as long as the largest load does not grow. */
static void close_copies(scratch *s, int32_t *amounts, const int64_t *total, const int32_t *shared,
                         int64_t num_shared, const int32_t *host, const int32_t *first) {
    int64_t largest = 0;
    for (int64_t g = 0; g < s->num_ranks; g++)
        if (s->load[g] > largest) largest = s->load[g];
    for (int64_t i = 0; i < num_shared; i++) {
        int64_t x = shared[i], num_hosts = first[x + 1] - first[x], num_open = 0;
        const int32_t *hosts = host + first[x];
        int32_t *row = amounts + x * s->num_ranks;
        /* target holds the order in which copies are tried: it is fixed before the first is closed */
        for (int64_t h = 0; h < num_hosts; h++) {
            if (!row[hosts[h]]) continue;
            int64_t p = num_open++;
            for (; p > 0 && row[hosts[s->target[p - 1]]] > row[hosts[h]]; p--) s->target[p] = s->target[p - 1];
            s->target[p] = h;
        }
        int64_t num_left = num_open;
        for (int64_t turn = 0; turn < num_open && num_left > 1; turn++) {
            int64_t tried = s->target[turn], fits = 1;
            /* an earlier refill may have emptied it */
            if (!row[hosts[tried]]) continue;
            for (int64_t h = 0; h < num_hosts; h++) {
                s->old[h] = row[hosts[h]];
                int64_t base = s->load[hosts[h]] - cost(s, s->old[h]);
                s->level[h] = !s->old[h] || h == tried ? -1 : base + s->stream;
            }
            fill(s, total[x], num_hosts);
            for (int64_t h = 0; h < num_hosts; h++)
                if (s->load[hosts[h]] - cost(s, s->old[h]) + cost(s, s->given[h]) > largest) fits = 0;
            if (!fits) continue;
            num_left = 0;
            for (int64_t h = 0; h < num_hosts; h++) {
                s->load[hosts[h]] += cost(s, s->given[h]) - cost(s, s->old[h]);
                row[hosts[h]] = (int32_t)s->given[h];
                num_left += s->given[h] > 0;
            }
        }
    }
}

/* The first source fills the first target, and so on, among ranks begin .. end - 1. */
static void in_order(scratch *s, int64_t *traffic, int64_t begin, int64_t end) {
    int64_t to = begin;
    for (int64_t from = begin; from < end; from++)
        while (s->source[from]) {
            while (!s->target[to]) to++;
            int64_t sent = s->source[from] < s->target[to] ? s->source[from] : s->target[to];
            s->source[from] -= sent;
            s->target[to] -= sent;
            traffic[from * s->num_ranks + to] += sent;
        }
}

/* As in_order, but stops when the node's targets are full. */
static void in_node(scratch *s, int64_t *traffic, int64_t begin, int64_t end) {
    int64_t to = begin;
    for (int64_t from = begin; from < end; from++)
        while (s->source[from]) {
            while (to < end && !s->target[to]) to++;
            if (to == end) return;
            int64_t sent = s->source[from] < s->target[to] ? s->source[from] : s->target[to];
            s->source[from] -= sent;
            s->target[to] -= sent;
            traffic[from * s->num_ranks + to] += sent;
        }
}

static void send(scratch *s, const int32_t *counts, const int32_t *row, const int32_t *node, int64_t *traffic) {
    int64_t num_ranks = s->num_ranks;
    for (int64_t g = 0; g < num_ranks; g++) {
        int64_t own = counts[g] < row[g] ? counts[g] : row[g];
        s->source[g] = counts[g] - own;
        s->target[g] = row[g] - own;
    }
    for (int64_t begin = 0, end; begin < num_ranks; begin = end) {
        for (end = begin + 1; end < num_ranks && node[end] == node[begin];) end++;
        if (end - begin < num_ranks) in_node(s, traffic, begin, end);
    }
    in_order(s, traffic, 0, num_ranks);
}

int split_by_counts(int64_t num_steps, int64_t num_experts, int64_t num_ranks, const int32_t *counts,
                    const uint8_t *hosts, const int32_t *node, int64_t stream, int32_t *amounts, int64_t *traffic) {
    int64_t num_cells = num_experts * num_ranks;
    int64_t *room = malloc(sizeof(int64_t) * (size_t)(7 * num_ranks + num_experts));
    int32_t *host = malloc(sizeof(int32_t) * (size_t)(num_cells + 2 * num_experts + 1));
    if (!room || !host) {
        free(room);
        free(host);
        return 1;
    }
    scratch s = {num_ranks, stream, room, room + num_ranks, room + 2 * num_ranks, room + 3 * num_ranks,
                 room + 4 * num_ranks, room + 5 * num_ranks, room + 6 * num_ranks};
    int64_t *total = room + 7 * num_ranks, num_shared = 0;
    int32_t *first = host + num_cells, *shared = first + num_experts + 1;
    first[0] = 0;
    for (int64_t x = 0; x < num_experts; x++) {
        int32_t end = first[x];
        for (int64_t g = 0; g < num_ranks; g++)
            if (hosts[x * num_ranks + g]) host[end++] = (int32_t)g;
        first[x + 1] = end;
        if (end - first[x] > 1) shared[num_shared++] = (int32_t)x;
    }
    memset(amounts, 0, sizeof(int32_t) * (size_t)(num_steps * num_cells));
    memset(traffic, 0, sizeof(int64_t) * (size_t)(num_steps * num_ranks * num_ranks));
    for (int64_t b = 0; b < num_steps; b++) {
        memset(s.load, 0, sizeof(int64_t) * (size_t)num_ranks);
        for (int64_t x = 0; x < num_experts; x++) {
            const int32_t *row = counts + x * num_ranks;
            total[x] = 0;
            for (int64_t g = 0; g < num_ranks; g++) total[x] += row[g];
            if (first[x + 1] - first[x] != 1) {
                nearest(&s, row, host + first[x], first[x + 1] - first[x], node, amounts + x * num_ranks);
                continue;
            }
            int32_t only = host[first[x]];
            amounts[x * num_ranks + only] = (int32_t)total[x];
            s.load[only] += cost(&s, total[x]);
            for (int64_t g = 0; g < num_ranks; g++) traffic[g * num_ranks + only] += row[g];
        }
        make_level(&s, amounts, total, shared, num_shared, host, first, 0);
        if (stream) {
            close_copies(&s, amounts, total, shared, num_shared, host, first);
            make_level(&s, amounts, total, shared, num_shared, host, first, 1);
        }
        for (int64_t i = 0; i < num_shared; i++) {
            int64_t row = (int64_t)shared[i] * num_ranks;
            send(&s, counts + row, amounts + row, node, traffic);
        }
        for (int64_t g = 0; g < num_ranks; g++) traffic[g * num_ranks + g] = 0;
        counts += num_cells;
        amounts += num_cells;
        traffic += num_ranks * num_ranks;
    }
    free(room);
    free(host);
    return 0;
}

int flow_by_counts(int64_t num_experts, int64_t num_ranks, const int32_t *counts, const uint8_t *hosts,
                   const int32_t *node, int64_t stream, int64_t *flow) {
    int64_t square = num_ranks * num_ranks;
    int32_t *amounts = malloc(sizeof(int32_t) * (size_t)(num_experts * num_ranks + 1));
    int64_t *room = malloc(sizeof(int64_t) * (size_t)(square + 2 * num_ranks));
    if (!amounts || !room || split_by_counts(1, num_experts, num_ranks, counts, hosts, node, stream, amounts, room)) {
        free(amounts);
        free(room);
        return 1;
    }
    scratch s = {num_ranks, stream, NULL, NULL, NULL, NULL, NULL, room + square, room + square + num_ranks};
    memset(flow, 0, sizeof(int64_t) * (size_t)(num_experts * square));
    for (int64_t x = 0; x < num_experts; x++) {
        const int32_t *from = counts + x * num_ranks, *to = amounts + x * num_ranks;
        send(&s, from, to, node, flow + x * square);
        for (int64_t g = 0; g < num_ranks; g++)
            flow[x * square + g * (num_ranks + 1)] += from[g] < to[g] ? from[g] : to[g];
    }
    free(amounts);
    free(room);
    return 0;
}
