/* The producing side: the slot pool's books and the cursors of a channel, all of it private memory of the producer.
 *
 * A pool serves up to 64 channels; holders is a bit for each channel whose consumer has the slot. A consumer can only
 * give back what it was given, once: class, index, generation and bit are checked, the rest is counted and ignored.
 *
 * The segment is sparse. A slot's memory is reserved when the slot is first lent, because memory that is missing when it
 * is touched ends the process (SIGBUS). It stays reserved. The stack of free slots has the reserved ones on top.
 */
#ifndef FLOWBRIDGE_SLOTS_H
#define FLOWBRIDGE_SLOTS_H

#include "ring.h"
#include <fcntl.h>
#include <stdlib.h>

#define FB_PORTS 64
#define FB_NOWHERE UINT32_MAX
#define FB_SHORT_NS 100000000 /* after memory was refused, nobody asks for more for so long: asking costs milliseconds */

struct fb_slots {
    uint64_t slot_bytes, offset;
    uint32_t count, free_count, reserved_count;
    uint32_t *free_index; /* a stack: the slot returned last is the one still in the cache */
    uint32_t *gen;
    uint64_t *holders;
    uint8_t *out;      /* loaned or published */
    uint8_t *reserved; /* its memory is there */
};

struct fb_tx;

struct fb_pool {
    unsigned char *base;
    uint32_t classes;
    struct fb_slots of[FB_CLASSES];
    struct fb_tx *tx[FB_PORTS];
    uint64_t bogus_returns;
    int64_t short_until_ns; /* memory was refused, and is not asked for before */
    int fd;                 /* the segment; -1 when everything is reserved or nothing can be any more */
};

struct fb_tx {
    unsigned char *chan;
    struct fb_geometry g;
    struct fb_pool *pool;
    uint64_t tail, tail_seq, published;
    uint64_t head, head_seq, credit_seq; /* as last seen */
    uint64_t completion_head, epoch;
    uint64_t high_items, low_items, high_bytes, low_bytes;
    uint64_t blocked[4], wakes, highs; /* blocked: by enum fb_code */
    uint64_t need_bytes, need_slot;    /* what the last refused call needed */
    uint64_t counter[FB_COUNTERS];
    const char *problem;
    uint32_t bit, held, want;
    int above, data_fd;
    _Atomic int stop;
};

static inline int fb_pool_init(struct fb_pool *pool, unsigned char *base, const struct fb_geometry *g) {
    pool->base = base;
    pool->classes = g->classes;
    for (uint32_t i = 0; i < g->classes; i++) {
        struct fb_slots *s = &pool->of[i];
        s->slot_bytes = g->shape[i].slot_bytes;
        s->offset = g->shape[i].offset;
        s->count = s->free_count = g->shape[i].count;
        s->free_index = calloc(s->count, sizeof *s->free_index);
        s->gen = calloc(s->count, sizeof *s->gen);
        s->holders = calloc(s->count, sizeof *s->holders);
        s->out = calloc(s->count, 1);
        s->reserved = calloc(s->count, 1);
        if (!s->free_index || !s->gen || !s->holders || !s->out || !s->reserved) return -1;
        for (uint32_t k = 0; k < s->count; k++) s->free_index[k] = s->count - 1 - k;
    }
    return 0;
}

static inline void fb_pool_free(struct fb_pool *pool) {
    for (uint32_t i = 0; i < FB_CLASSES; i++) {
        free(pool->of[i].free_index);
        free(pool->of[i].gen);
        free(pool->of[i].holders);
        free(pool->of[i].out);
        free(pool->of[i].reserved);
    }
    memset(pool, 0, sizeof *pool);
}

static inline void fb_slot_free(struct fb_pool *pool, uint32_t slot) {
    struct fb_slots *s = &pool->of[slot >> 28];
    uint32_t index = slot & 0x0FFFFFFF;
    s->out[index] = 0;
    s->free_index[s->free_count++] = index;
}

static inline unsigned char *fb_slot_at(struct fb_pool *pool, uint32_t slot) {
    struct fb_slots *s = &pool->of[slot >> 28];
    return pool->base + s->offset + (uint64_t)(slot & 0x0FFFFFFF) * s->slot_bytes;
}

static inline uint32_t fb_slot_gen(struct fb_pool *pool, uint32_t slot) {
    return pool->of[slot >> 28].gen[slot & 0x0FFFFFFF];
}

static inline uint64_t fb_pool_largest(const struct fb_pool *pool) {
    uint64_t most = 0;
    for (uint32_t i = 0; i < pool->classes; i++)
        if (pool->of[i].slot_bytes > most) most = pool->of[i].slot_bytes;
    return most;
}

static inline int fb_tx_bad(struct fb_tx *tx, const char *problem) {
    tx->problem = problem;
    atomic_store_explicit(&fb_super(tx->chan)->state, FB_POISONED, memory_order_release);
    return FB_BAD_PEER;
}

/* Takes one channel's hold off a slot; the last hold frees it. */
static inline void fb_slot_drop(struct fb_tx *tx, uint32_t slot) {
    uint64_t *holders = &tx->pool->of[slot >> 28].holders[slot & 0x0FFFFFFF];
    *holders &= ~(1ull << tx->bit);
    tx->held--;
    if (*holders == 0) fb_slot_free(tx->pool, slot);
}

/* Takes back what the consumer of one channel returned. */
static inline int fb_tx_drain(struct fb_tx *tx) {
    uint64_t tail = atomic_load_explicit(&fb_consumer(tx->chan)->completion_tail, memory_order_acquire);
    if (tail == tx->completion_head) return FB_OK;
    if (tail - tx->completion_head > tx->g.completion_items) return fb_tx_bad(tx, "more returns than the ring holds");
    for (; tx->completion_head != tail; tx->completion_head++) {
        uint64_t place = tx->completion_head & (tx->g.completion_items - 1);
        unsigned char *at = tx->chan + tx->g.completion_offset + place * 8;
        uint64_t word = atomic_load_explicit((_Atomic uint64_t *)(void *)at, memory_order_relaxed);
        uint32_t slot = (uint32_t)word, class = slot >> 28, index = slot & 0x0FFFFFFF, gen = (uint32_t)(word >> 32);
        struct fb_slots *s = &tx->pool->of[class];
        if (class >= tx->pool->classes || index >= s->count || !s->out[index] || s->gen[index] != gen ||
            !(s->holders[index] >> tx->bit & 1))
            tx->pool->bogus_returns++;
        else
            fb_slot_drop(tx, slot);
    }
    atomic_store_explicit(&fb_producer(tx->chan)->completion_head, tx->completion_head, memory_order_release);
    return FB_OK;
}

static inline void fb_pool_drain(struct fb_pool *pool) {
    for (uint32_t i = 0; i < FB_PORTS; i++)
        if (pool->tx[i] && pool->tx[i]->held && !pool->tx[i]->problem) fb_tx_drain(pool->tx[i]);
}

/* Whether the memory of a slot is there, which it asks for when it is not. See fallocate(2). */
static inline int fb_slot_reserve(struct fb_pool *pool, struct fb_slots *s, uint32_t index) {
    int done;
    if (s->reserved[index]) return 1;
    if (pool->fd < 0 || (pool->short_until_ns && fb_now_ns() < pool->short_until_ns)) return 0;
    do {
        done = fallocate(pool->fd, 0, (off_t)(s->offset + index * s->slot_bytes), (off_t)s->slot_bytes);
    } while (done != 0 && errno == EINTR);
    if (done != 0) {
        pool->short_until_ns = fb_now_ns() + FB_SHORT_NS;
        return 0;
    }
    pool->short_until_ns = 0;
    s->reserved[index] = 1;
    s->reserved_count++;
    return 1;
}

/* Whether no slot for so many bytes has memory, out or free: nothing can come back, so waiting does not help. */
static inline int fb_pool_never(const struct fb_pool *pool, uint64_t length) {
    for (uint32_t i = 0; i < pool->classes; i++)
        if (pool->of[i].slot_bytes >= length && pool->of[i].reserved_count) return 0;
    return 1;
}

/* The smallest class that fits and has a slot: class and index, or FB_NOWHERE. Classes stand in order of size. */
static inline uint32_t fb_pool_take(struct fb_pool *pool, uint64_t length) {
    fb_pool_drain(pool);
    for (uint32_t i = 0; i < pool->classes; i++) {
        struct fb_slots *s = &pool->of[i];
        if (s->slot_bytes < length || s->free_count == 0) continue;
        if (!fb_slot_reserve(pool, s, s->free_index[s->free_count - 1])) continue;
        uint32_t index = s->free_index[--s->free_count];
        s->out[index] = 1;
        s->holders[index] = 0;
        s->gen[index]++;
        return i << 28 | index;
    }
    return FB_NOWHERE;
}

static inline int fb_pool_has(struct fb_pool *pool, uint64_t length) {
    fb_pool_drain(pool);
    for (uint32_t i = 0; i < pool->classes; i++) {
        const struct fb_slots *s = &pool->of[i];
        if (s->slot_bytes < length || s->free_count == 0) continue;
        if (s->reserved[s->free_index[s->free_count - 1]]) return 1;
        if (pool->fd >= 0 && (!pool->short_until_ns || fb_now_ns() >= pool->short_until_ns)) return 1;
    }
    return 0;
}

/* Whether, of some class and those above it, at least this part of the slots is out. */
static inline int fb_pool_filled(const struct fb_pool *pool, uint32_t permille) {
    uint64_t count = 0, out = 0;
    for (uint32_t i = pool->classes; i-- > 0;) {
        count += pool->of[i].count;
        out += pool->of[i].count - pool->of[i].free_count;
        if (out * 1000 >= count * permille) return 1;
    }
    return 0;
}

/* Drops every hold of a channel whose consumer is gone. */
static inline void fb_tx_drop_all(struct fb_tx *tx) {
    for (uint32_t i = 0; i < tx->pool->classes && tx->held; i++)
        for (uint32_t k = 0; k < tx->pool->of[i].count && tx->held; k++)
            if (tx->pool->of[i].out[k] && tx->pool->of[i].holders[k] >> tx->bit & 1) fb_slot_drop(tx, i << 28 | k);
}

/* --- publishing ------------------------------------------------------------------------------------------------- */

static inline int fb_tx_refresh(struct fb_tx *tx) {
    struct fb_consumer_page *c = fb_consumer(tx->chan);
    uint64_t head = atomic_load_explicit(&c->head, memory_order_acquire);
    uint64_t head_seq = atomic_load_explicit(&c->head_seq, memory_order_relaxed);
    uint64_t credit = atomic_load_explicit(&c->credit_seq, memory_order_relaxed);
    if (head - tx->head > tx->published - tx->head || head % FB_ALIGN) return fb_tx_bad(tx, "the head is outside the ring");
    if (head_seq - tx->head_seq > tx->tail_seq - tx->head_seq) return fb_tx_bad(tx, "more is released than was sent");
    tx->head = head;
    tx->head_seq = head_seq;
    if ((int64_t)(credit - tx->credit_seq) > 0) tx->credit_seq = credit;
    return FB_OK;
}

static inline int fb_tx_has_credit(const struct fb_tx *tx) {
    if (tx->g.window_items) return tx->tail_seq - tx->head_seq < tx->g.window_items;
    return (int64_t)(tx->credit_seq - tx->tail_seq) > 0;
}

/* Bytes that a record takes at the present tail, the pad before it included. */
static inline uint64_t fb_tx_span(const struct fb_tx *tx, uint64_t bytes) {
    uint64_t rest = tx->g.ring_bytes - (tx->tail & (tx->g.ring_bytes - 1));
    return bytes > rest ? rest + bytes : bytes;
}

static inline int fb_tx_has_room(const struct fb_tx *tx, uint64_t bytes) {
    return tx->tail - tx->head + fb_tx_span(tx, bytes) <= tx->g.ring_bytes;
}

static inline int fb_tx_blocked(struct fb_tx *tx, int code, uint64_t need_bytes, uint64_t need_slot) {
    tx->blocked[code]++;
    tx->want = (uint32_t)FB_WANT_CREDIT << (code - FB_NO_CREDIT);
    tx->need_bytes = need_bytes;
    tx->need_slot = need_slot;
    return code;
}

/* Whether a record of that many payload bytes in the ring may be staged now. */
static inline int fb_tx_admit(struct fb_tx *tx, uint64_t length) {
    uint64_t bytes = FB_ALIGN + ((length + FB_ALIGN - 1) & ~(uint64_t)(FB_ALIGN - 1));
    if (tx->problem) return FB_BAD_PEER;
    if (atomic_load_explicit(&fb_super(tx->chan)->state, memory_order_relaxed) != FB_READY ||
        atomic_load_explicit(&fb_consumer(tx->chan)->attach, memory_order_relaxed) == FB_DETACHED)
        return FB_GONE;
    if (fb_tx_has_credit(tx) && fb_tx_has_room(tx, bytes)) return FB_OK;
    if (fb_tx_refresh(tx) != FB_OK) return FB_BAD_PEER;
    if (!fb_tx_has_credit(tx)) return fb_tx_blocked(tx, FB_NO_CREDIT, bytes, 0);
    if (!fb_tx_has_room(tx, bytes)) return fb_tx_blocked(tx, FB_NO_RING, bytes, 0);
    return FB_OK;
}

/* Writes an admitted record; the peer sees it after fb_tx_publish. A payload is NULL for SLOT. */
static inline void fb_tx_stage(struct fb_tx *tx, const struct fb_record *record, const void *payload) {
    uint64_t cap = tx->g.ring_bytes, here = tx->tail & (cap - 1), bytes = FB_ALIGN;
    if (payload) bytes += (record->length + FB_ALIGN - 1) & ~(uint64_t)(FB_ALIGN - 1);
    if (here + bytes > cap) {
        memset(tx->chan + FB_RING + here, 0, FB_ALIGN); /* a PAD record: the rest of this lap */
        tx->tail += cap - here;
        here = 0;
    }
    unsigned char *at = tx->chan + FB_RING + here;
    memcpy(at, record, sizeof *record);
    if (payload) memcpy(at + FB_ALIGN, payload, record->length);
    if (record->kind == FB_SLOT) {
        tx->pool->of[record->slot >> 28].holders[record->slot & 0x0FFFFFFF] |= 1ull << tx->bit;
        tx->held++;
    }
    tx->tail += bytes;
    tx->tail_seq++;
    tx->want = 0;
}

static inline void fb_tx_wake(struct fb_tx *tx) {
    struct fb_consumer_page *c = fb_consumer(tx->chan);
    /* Orders the tail before the look at the wait word: see fb_rx_wake. */
    atomic_thread_fence(memory_order_seq_cst);
    if (atomic_load_explicit(&c->data_wait, memory_order_relaxed) == 0) return;
    uint32_t how = atomic_exchange_explicit(&c->data_wait, 0, memory_order_acq_rel);
    if (how == 0) return;
    tx->wakes++;
    if (how == FB_BY_EVENTFD)
        fb_event_write(tx->data_fd);
    else
        fb_futex_wake(&fb_producer(tx->chan)->data_seq);
}

static inline void fb_tx_publish(struct fb_tx *tx) {
    struct fb_producer_page *p = fb_producer(tx->chan);
    if (tx->tail == tx->published) return;
    tx->published = tx->tail;
    atomic_store_explicit(&p->tail_seq, tx->tail_seq, memory_order_relaxed);
    atomic_store_explicit(&p->tail, tx->tail, memory_order_release);
    fb_tx_wake(tx);
}

/* Whether the tightest of credit, ring and slots is filled to a watermark, by the cursors as last seen. */
static inline int fb_tx_filled(const struct fb_tx *tx, uint64_t items, uint64_t bytes, uint32_t permille) {
    if (tx->g.window_items && tx->tail_seq - tx->head_seq >= items) return 1;
    return tx->tail - tx->head >= bytes || (tx->pool->classes && fb_pool_filled(tx->pool, permille));
}

/* The hysteresis: 1 when it just went above high, -1 when it just came down to low, otherwise 0. */
static inline int fb_tx_watermark(struct fb_tx *tx) {
    if (!tx->above) {
        if (!fb_tx_filled(tx, tx->high_items, tx->high_bytes, tx->g.high_permille)) return 0;
        if (fb_tx_refresh(tx) != FB_OK) return 0;
        fb_pool_drain(tx->pool);
        if (!fb_tx_filled(tx, tx->high_items, tx->high_bytes, tx->g.high_permille)) return 0;
        tx->above = 1;
        tx->highs++;
        return 1;
    }
    if (fb_tx_refresh(tx) != FB_OK) return 0;
    fb_pool_drain(tx->pool);
    if (fb_tx_filled(tx, tx->low_items + 1, tx->low_bytes + 1, tx->g.low_permille + 1)) return 0;
    tx->above = 0;
    return -1;
}

static inline int fb_tx_ready(struct fb_tx *tx, uint32_t want) {
    if (tx->problem || atomic_load_explicit(&tx->stop, memory_order_relaxed) ||
        atomic_load_explicit(&fb_super(tx->chan)->state, memory_order_acquire) != FB_READY ||
        atomic_load_explicit(&fb_consumer(tx->chan)->attach, memory_order_acquire) == FB_DETACHED)
        return 1;
    if (want & FB_WANT_ANY) return 0;
    if (fb_tx_refresh(tx) != FB_OK) return 1;
    if (want & FB_WANT_LOW) {
        fb_pool_drain(tx->pool);
        return !fb_tx_filled(tx, tx->low_items + 1, tx->low_bytes + 1, tx->g.low_permille + 1);
    }
    if (want & FB_WANT_CREDIT && !fb_tx_has_credit(tx)) return 0;
    if (want & FB_WANT_RING && !fb_tx_has_room(tx, tx->need_bytes)) return 0;
    if (want & FB_WANT_SLOTS && !fb_pool_has(tx->pool, tx->need_slot)) return 0;
    return 1;
}

/* What stands above the low watermark, for a producer that waits for that. */
static inline uint32_t fb_tx_above_low(const struct fb_tx *tx) {
    uint32_t want = FB_WANT_LOW;
    if (tx->g.window_items && tx->tail_seq - tx->head_seq > tx->low_items) want |= FB_WANT_CREDIT;
    if (tx->tail - tx->head > tx->low_bytes) want |= FB_WANT_RING;
    if (tx->pool->classes && fb_pool_filled(tx->pool, tx->g.low_permille + 1)) want |= FB_WANT_SLOTS;
    return want;
}

static inline uint64_t fb_tx_slots(const struct fb_tx *tx) {
    uint64_t slots = 0;
    for (uint32_t i = 0; i < tx->g.classes; i++) slots += tx->g.shape[i].count;
    return slots;
}

/* Forgets a consumer that is dead: its slots, its place in the ring. Gives the messages that it had not released. */
static inline uint64_t fb_tx_reclaim(struct fb_tx *tx) {
    struct fb_consumer_page *c = fb_consumer(tx->chan);
    uint64_t lost;
    if (!tx->problem) fb_tx_refresh(tx);
    lost = tx->tail_seq - tx->head_seq;
    tx->epoch++;
    atomic_store_explicit(&fb_super(tx->chan)->epoch, tx->epoch, memory_order_seq_cst);
    fb_tx_drop_all(tx);
    tx->head = tx->published = tx->tail;
    tx->head_seq = tx->credit_seq = tx->tail_seq;
    tx->above = 0;
    atomic_store_explicit(&fb_producer(tx->chan)->tail, tx->tail, memory_order_relaxed);
    atomic_store_explicit(&fb_producer(tx->chan)->tail_seq, tx->tail_seq, memory_order_relaxed);
    atomic_store_explicit(&fb_producer(tx->chan)->completion_head, tx->completion_head, memory_order_relaxed);
    atomic_store_explicit(&fb_producer(tx->chan)->space_wait, 0, memory_order_relaxed);
    atomic_store_explicit(&c->completion_tail, tx->completion_head, memory_order_relaxed);
    atomic_store_explicit(&c->data_wait, 0, memory_order_relaxed);
    memset(tx->chan + tx->g.lease_offset, 0, 8 * (size_t)fb_tx_slots(tx));
    atomic_store_explicit(&c->head_seq, tx->head_seq, memory_order_relaxed);
    atomic_store_explicit(&c->credit_seq, tx->credit_seq, memory_order_relaxed);
    atomic_store_explicit(&c->head, tx->head, memory_order_release);
    atomic_store_explicit(&c->attach, FB_FREE, memory_order_release);
    return lost;
}

/* Announces a sleeping producer. Returns 1 when what it wants is not there yet. */
static inline int fb_tx_arm(struct fb_tx *tx, uint32_t how, uint32_t want) {
    struct fb_producer_page *p = fb_producer(tx->chan);
    atomic_store_explicit(&p->space_wait, how | want, memory_order_relaxed);
    atomic_thread_fence(memory_order_seq_cst);
    if (!fb_tx_ready(tx, want)) return 1;
    atomic_store_explicit(&p->space_wait, 0, memory_order_relaxed);
    return 0;
}

#endif
