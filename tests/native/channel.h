/* A channel without Python: memory, geometry and both ends, for the programs that measure and strain ring.h. */
#ifndef FLOWBRIDGE_TEST_CHANNEL_H
#define FLOWBRIDGE_TEST_CHANNEL_H

#include "slots.h"
#include <stdio.h>
#include <sys/eventfd.h>
#include <sys/mman.h>

struct channel {
    unsigned char *chan, *slots;
    struct fb_geometry g;
    int data_fd, space_fd;
};

static inline void must(int holds, const char *what) {
    if (holds) return;
    fprintf(stderr, "%s\n", what);
    fflush(stderr);
    _exit(3);
}

/* One class of `count` slots, or none; the memory is shared with children that are forked afterwards. */
static inline void channel_make(struct channel *ch, uint64_t ring_bytes, uint64_t window, uint32_t inline_bytes,
                                uint64_t slot_bytes, uint32_t count) {
    struct fb_geometry *g = &ch->g;
    uint64_t items = 1;
    while (items < count) items *= 2;
    memset(g, 0, sizeof *g);
    g->magic = FB_MAGIC;
    g->major = FB_MAJOR;
    g->minor = FB_MINOR;
    g->endian = FB_ENDIAN;
    g->ring_offset = FB_RING;
    g->ring_bytes = ring_bytes;
    g->completion_offset = FB_RING + ring_bytes;
    g->completion_items = items;
    g->lease_offset = g->completion_offset + items * 8;
    g->total_bytes = g->lease_offset + count * 8;
    g->inline_bytes_max = inline_bytes;
    g->window_items = window;
    g->high_permille = 750;
    g->low_permille = 500;
    if (count) {
        g->classes = 1;
        g->shape[0].slot_bytes = slot_bytes;
        g->shape[0].count = count;
        g->pool_bytes = slot_bytes * count;
    }
    g->crc32c = fb_crc32c(g, offsetof(struct fb_geometry, crc32c));
    int kind = MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE;
    ch->chan = mmap(NULL, g->total_bytes, PROT_READ | PROT_WRITE, kind, -1, 0);
    must(ch->chan != MAP_FAILED, "no memory for the channel");
    ch->slots = NULL;
    if (count) {
        ch->slots = mmap(NULL, g->pool_bytes, PROT_READ | PROT_WRITE, kind, -1, 0);
        must(ch->slots != MAP_FAILED, "no memory for the slots");
    }
    must(fb_geometry_problem(g, g->total_bytes, g->pool_bytes) == NULL, "the geometry is refused");
    memcpy(&fb_super(ch->chan)->geometry, g, sizeof *g);
    ch->data_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    ch->space_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    must(ch->data_fd >= 0 && ch->space_fd >= 0, "no eventfd");
    atomic_store(&fb_super(ch->chan)->state, FB_READY);
    atomic_store(&fb_consumer(ch->chan)->attach, FB_LIVE);
}

static inline void channel_tx(const struct channel *ch, struct fb_tx *tx, struct fb_pool *pool) {
    memset(tx, 0, sizeof *tx);
    memset(pool, 0, sizeof *pool);
    must(fb_pool_init(pool, ch->slots, &ch->g) == 0, "no memory for the books of the pool");
    pool->fd = -1; /* all of it is there already */
    for (uint32_t i = 0; i < pool->classes; i++) {
        memset(pool->of[i].reserved, 1, pool->of[i].count);
        pool->of[i].reserved_count = pool->of[i].count;
    }
    tx->chan = ch->chan;
    tx->g = ch->g;
    tx->pool = pool;
    tx->data_fd = ch->data_fd;
    tx->high_items = ch->g.window_items * 3 / 4;
    tx->low_items = ch->g.window_items / 2;
    tx->high_bytes = ch->g.ring_bytes * 3 / 4;
    tx->low_bytes = ch->g.ring_bytes / 2;
    pool->tx[0] = tx;
}

static inline void channel_rx(const struct channel *ch, struct fb_rx *rx) {
    memset(rx, 0, sizeof *rx);
    rx->chan = ch->chan;
    rx->pool = ch->slots;
    rx->g = ch->g;
    rx->space_fd = ch->space_fd;
    rx->low_items = ch->g.window_items / 2;
    rx->low_bytes = ch->g.ring_bytes / 2;
}

static inline void channel_free(struct channel *ch, struct fb_pool *pool) {
    fb_pool_free(pool);
    close(ch->data_fd);
    close(ch->space_fd);
    munmap(ch->chan, ch->g.total_bytes);
    if (ch->slots) munmap(ch->slots, ch->g.pool_bytes);
}

/* Copies a payload in, waiting for room as `ShmProducer.send` does. */
static inline void channel_send(struct fb_tx *tx, const void *payload, uint64_t length, uint64_t seq) {
    struct fb_record r = {.kind = FB_INLINE, .length = length, .seq = seq};
    int in_ring = length <= tx->g.inline_bytes_max;
    for (;;) {
        int code = fb_tx_admit(tx, in_ring ? length : 0);
        must(code >= 0, "the producer is refused");
        if (code == FB_OK && !in_ring) {
            r.slot = fb_pool_take(tx->pool, length);
            if (r.slot == FB_NOWHERE) code = fb_tx_blocked(tx, FB_NO_SLOT, FB_ALIGN, length);
        }
        if (code == FB_OK) break;
        _Atomic uint32_t *word = &fb_consumer(tx->chan)->space_seq;
        uint32_t seen = atomic_load_explicit(word, memory_order_acquire);
        if (!fb_tx_arm(tx, FB_BY_FUTEX, tx->want)) continue;
        fb_futex_wait(word, seen, 100000000);
        atomic_store_explicit(&fb_producer(tx->chan)->space_wait, 0, memory_order_relaxed);
    }
    if (!in_ring) {
        r.kind = FB_SLOT;
        r.gen = fb_slot_gen(tx->pool, r.slot);
        memcpy(fb_slot_at(tx->pool, r.slot), payload, length);
    }
    fb_tx_stage(tx, &r, in_ring ? payload : NULL);
    fb_tx_publish(tx);
}

/* The next record and its payload, waiting by futex. Publish or return it afterwards. */
static inline void channel_receive(struct fb_rx *rx, struct fb_record *r, const unsigned char **at, int64_t spin_ns) {
    int got;
    while ((got = fb_rx_next(rx, r, at)) == 0) fb_rx_wait(rx, 100000000, spin_ns);
    must(got == 1, "the consumer is refused");
}

/* Gives a record back that was read. */
static inline void channel_release(struct fb_rx *rx, const struct fb_record *r) {
    fb_rx_publish(rx);
    if (r->kind == FB_SLOT) fb_rx_return(rx, r->slot, r->gen);
}

#endif
