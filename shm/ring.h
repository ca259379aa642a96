/* The shared-memory channel of flowbridge: one single-producer single-consumer ring and its completion ring.
 *
 * C11 atomics, futex and eventfd; no Python. Every function is static inline: the one translation unit is _core.
 * slots.h holds the slot pool. The protocol in words stands at the head of port.py.
 *
 * Trust: both sides map the channel for writing, so every word in it may change at any time. Each side keeps its own
 * cursors in private memory (fb_tx, fb_rx), reads a word of the peer once into a local, and checks that local against
 * the private copy of the geometry. What fails a check poisons the channel; no check, no access.
 */
#ifndef FLOWBRIDGE_RING_H
#define FLOWBRIDGE_RING_H

#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define FB_MAGIC 0x00314D4853424C46ull /* "FLBSHM1" in memory on a little-endian machine */
#define FB_MAJOR 1
#define FB_MINOR 1 /* 1: lease table, name and pool inode */
#define FB_ENDIAN 0x01020304u
#define FB_CLASSES 16
#define FB_COUNTERS 64
#define FB_ALIGN 64u
#define FB_PAGE 4096u
#define FB_NAME_BYTES 128

enum fb_kind { FB_PAD = 0, FB_INLINE = 1, FB_SLOT = 2, FB_CTRL = 3 };
enum fb_state { FB_INIT = 0, FB_READY = 1, FB_ABANDONED = 2, FB_CLOSED = 3, FB_POISONED = 4 };
enum fb_attach { FB_FREE = 0, FB_LIVE = 2, FB_DETACHED = 3 };
enum fb_code { FB_OK = 0, FB_NO_CREDIT = 1, FB_NO_RING = 2, FB_NO_SLOT = 3, FB_GONE = -2, FB_BAD_PEER = -3 };
enum fb_waited { FB_WOKEN = 0, FB_TIMED_OUT = 1, FB_INTERRUPTED = 2 };
/* A wait word: how the sleeper wants to be woken in the low byte, and what the producer needs above it. */
enum fb_wait { FB_BY_FUTEX = 1, FB_BY_EVENTFD = 2, FB_HOW = 0xFF };
enum fb_want { FB_WANT_CREDIT = 0x100, FB_WANT_RING = 0x200, FB_WANT_SLOTS = 0x400, FB_WANT_ANY = 0x800, FB_WANT_LOW = 0x1000 };

/* Offset 0 of a record; the payload of INLINE and CTRL follows at 64. A record never crosses the end of the ring. */
struct fb_record {
    uint8_t kind, lane;
    uint16_t codec;
    uint32_t slot; /* class in the upper 4 bits, index in the lower 28 */
    uint64_t length, seq;
    int64_t deadline_ns, origin_ns, sent_ns;
    uint64_t size_bytes;
    uint32_t tag, gen;
};

struct fb_class_shape {
    uint64_t slot_bytes, offset;
    uint32_t count, zero;
};

/* Written once by the creator, then only read; everybody works on a private copy. */
struct fb_geometry {
    uint64_t magic;
    uint16_t major, minor;
    uint32_t endian;
    uint64_t total_bytes;
    uint8_t uuid[16];
    uint32_t creator_pid, flags; /* flag 1: memfd, sealed */
    uint64_t creator_start; /* with the pid, which process: see peer.py */
    uint64_t ring_offset, ring_bytes;
    uint64_t completion_offset, completion_items;
    uint64_t pool_bytes, window_items; /* a window of 0: credit is granted explicitly */
    uint32_t inline_bytes_max, classes;
    uint32_t high_permille, low_permille;
    uint64_t lease_offset; /* a u64 for each slot, class after class */
    struct fb_class_shape shape[FB_CLASSES];
    uint32_t crc32c; /* of all bytes before it */
};

struct fb_super {
    struct fb_geometry geometry;
    uint8_t gap[0x240 - sizeof(struct fb_geometry)];
    _Atomic uint32_t state;
    uint32_t gap2;
    _Atomic uint64_t epoch; /* one more with every reclaim: what an older consumer returns is dropped */
    /* For people who look (listing.py); written once, outside the checksum, believed by nobody. */
    uint64_t pool_inode; /* of the pool's segment, on the same device as the channel; 0 without one */
    uint8_t gap3[0x280 - 0x258];
    char name[FB_NAME_BYTES]; /* UTF-8, padded with zeros */
};

/* Words that different sides write are 128 bytes apart: adjacent-line prefetch pairs the lines. */
struct fb_producer_page {
    _Alignas(128) _Atomic uint64_t tail; /* bytes, monotonic */
    _Atomic uint64_t tail_seq;           /* messages published */
    _Alignas(128) _Atomic uint32_t data_seq; /* futex word of a sleeping consumer */
    _Alignas(128) _Atomic uint64_t completion_head;
    _Alignas(128) _Atomic uint32_t space_wait; /* the producer sets it, whoever wakes clears it */
    uint8_t gap[0x300 - 0x184];
    _Atomic uint64_t counter[FB_COUNTERS];
};

struct fb_consumer_page {
    _Alignas(128) _Atomic uint64_t head; /* bytes released, monotonic */
    _Atomic uint64_t head_seq;           /* messages released */
    _Atomic uint64_t credit_seq;         /* messages the producer may have published (explicit credit) */
    _Alignas(128) _Atomic uint32_t data_wait;
    _Alignas(128) _Atomic uint32_t space_seq; /* futex word of a sleeping producer */
    _Alignas(128) _Atomic uint64_t completion_tail;
    _Alignas(128) _Atomic uint32_t attach;
    uint32_t pid;
    uint64_t start;
    uint8_t gap[0x300 - 0x210];
    _Atomic uint64_t counter[FB_COUNTERS];
};

#define FB_PRODUCER_PAGE 0x1000
#define FB_CONSUMER_PAGE 0x2000
#define FB_RING 0x3000

_Static_assert(sizeof(struct fb_record) == 64, "a record header is one cache line");
_Static_assert(sizeof(struct fb_class_shape) == 24, "no padding");
_Static_assert(offsetof(struct fb_geometry, shape) == 0x80, "layout, version 1");
_Static_assert(offsetof(struct fb_geometry, crc32c) == 0x200, "layout, version 1");
_Static_assert(offsetof(struct fb_geometry, lease_offset) == 0x78, "layout, version 1");
_Static_assert(offsetof(struct fb_super, state) == 0x240, "layout, version 1");
_Static_assert(offsetof(struct fb_super, name) == 0x280, "layout, version 1");
_Static_assert(offsetof(struct fb_producer_page, counter) == 0x300, "layout, version 1");
_Static_assert(offsetof(struct fb_consumer_page, attach) == 0x200, "layout, version 1");
_Static_assert(offsetof(struct fb_consumer_page, counter) == 0x300, "layout, version 1");
_Static_assert(sizeof(struct fb_producer_page) <= FB_PAGE && sizeof(struct fb_consumer_page) <= FB_PAGE, "one page");

static inline struct fb_super *fb_super(unsigned char *chan) { return (struct fb_super *)(void *)chan; }
static inline struct fb_producer_page *fb_producer(unsigned char *chan) {
    return (struct fb_producer_page *)(void *)(chan + FB_PRODUCER_PAGE);
}
static inline struct fb_consumer_page *fb_consumer(unsigned char *chan) {
    return (struct fb_consumer_page *)(void *)(chan + FB_CONSUMER_PAGE);
}

/* --- the machine ------------------------------------------------------------------------------------------------ */

static inline int64_t fb_now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static inline void fb_pause(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Not FUTEX_PRIVATE: the other side is another process. See futex(2). */
static inline int fb_futex_wait(_Atomic uint32_t *word, uint32_t seen, int64_t wait_ns) {
    struct timespec t = {.tv_sec = wait_ns / 1000000000, .tv_nsec = wait_ns % 1000000000};
    if (syscall(SYS_futex, word, FUTEX_WAIT, seen, &t, NULL, 0) == 0 || errno == EAGAIN) return FB_WOKEN;
    return errno == EINTR ? FB_INTERRUPTED : FB_TIMED_OUT;
}

static inline void fb_futex_wake(_Atomic uint32_t *word) {
    atomic_fetch_add_explicit(word, 1, memory_order_release);
    syscall(SYS_futex, word, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
}

static inline void fb_event_write(int fd) {
    uint64_t one = 1;
    /* Non-blocking: a full counter (EAGAIN) is readable already, which is all that is asked of it. */
    ssize_t done = write(fd, &one, sizeof one);
    (void)done;
}

static inline void fb_event_clear(int fd) {
    uint64_t count;
    ssize_t done = read(fd, &count, sizeof count);
    (void)done;
}

/* Handles made before a fork are void in the child: it would return slots and move cursors that are not its own. */
static uint32_t fb_forks;
static void fb_forked(void) { fb_forks++; }
static inline int fb_watch_forks(void) { return pthread_atfork(NULL, NULL, fb_forked); }

/* CRC-32C (Castagnoli), reflected, bit by bit: it runs once when a channel is opened. RFC 9260 appendix A. */
static inline uint32_t fb_crc32c(const void *data, size_t length) {
    const unsigned char *at = data;
    uint32_t crc = 0xFFFFFFFFu;
    while (length--) {
        crc ^= *at++;
        for (int bit = 0; bit < 8; bit++) crc = (crc >> 1) ^ (0x82F63B78u & (0u - (crc & 1)));
    }
    return ~crc;
}

/* --- geometry --------------------------------------------------------------------------------------------------- */

/* What is wrong with a private copy of the geometry, or NULL. Sizes are those of the descriptors, by fstat. */
static inline const char *fb_geometry_problem(const struct fb_geometry *g, uint64_t chan_bytes, uint64_t pool_bytes) {
    uint64_t slots = 0, ring = g->ring_bytes, items = g->completion_items;
    if (g->magic != FB_MAGIC) return "no channel of flowbridge";
    if (g->major != FB_MAJOR || g->minor < FB_MINOR) return "another version of the layout";
    if (g->endian != FB_ENDIAN) return "another byte order";
    if (g->crc32c != fb_crc32c(g, offsetof(struct fb_geometry, crc32c))) return "checksum of the superblock";
    if (g->total_bytes > chan_bytes) return "the channel is shorter than it says";
    if (ring < FB_PAGE || ring > (1u << 30) || (ring & (ring - 1))) return "size of the ring";
    if (items < 1 || items > (1u << 28) || (items & (items - 1))) return "size of the completion ring";
    if (g->ring_offset != FB_RING || g->completion_offset != FB_RING + ring) return "place of the rings";
    if (g->total_bytes < g->completion_offset + items * 8) return "the rings do not fit in the channel";
    if (g->inline_bytes_max > ring / 2 - FB_ALIGN) return "inline payloads larger than half of the ring";
    if (g->classes > FB_CLASSES) return "number of slot classes";
    if (g->pool_bytes > pool_bytes) return "the pool is shorter than it says";
    if (g->low_permille > g->high_permille || g->high_permille > 1000) return "watermarks";
    if (g->window_items > (1ull << 32)) return "window";
    for (uint32_t i = 0; i < g->classes; i++) {
        const struct fb_class_shape *c = &g->shape[i];
        if (c->slot_bytes < FB_ALIGN || c->slot_bytes % FB_ALIGN || c->slot_bytes > (1ull << 40)) return "slot size";
        if (c->count < 1 || c->count > (1u << 28) - 1) return "slot count";
        if (c->offset % FB_ALIGN || c->offset > g->pool_bytes) return "place of a slot class";
        if (c->count > (g->pool_bytes - c->offset) / c->slot_bytes) return "slots outside the pool";
        slots += c->count;
    }
    if (slots > items) return "fewer completions than slots";
    if (g->lease_offset != g->completion_offset + items * 8) return "place of the lease table";
    if (slots > (g->total_bytes - g->lease_offset) / 8) return "the lease table does not fit in the channel";
    return NULL;
}

/* --- the consuming side ----------------------------------------------------------------------------------------- */

struct fb_rx {
    unsigned char *chan;
    const unsigned char *pool;
    struct fb_geometry g;
    uint64_t head, head_seq, published, tail; /* tail: as last seen */
    uint64_t completion_tail, credit_seq, epoch;
    uint64_t low_items, low_bytes;
    uint64_t lease_at[FB_CLASSES]; /* where the lease table has the first slot of a class */
    uint64_t returns_lost, wakes, late_wakes;
    uint64_t counter[FB_COUNTERS];
    int64_t waits_ns; /* smoothed length of the last waits, for the spin window */
    const char *problem;
    int space_fd;
    _Atomic int stop; /* set by a close in another thread */
};

static inline int fb_rx_bad(struct fb_rx *rx, const char *problem) {
    rx->problem = problem;
    atomic_store_explicit(&fb_super(rx->chan)->state, FB_POISONED, memory_order_release);
    return FB_BAD_PEER;
}

/* Whether the channel is still this consumer's: a producer that takes it back moves the epoch. */
static inline int fb_rx_current(struct fb_rx *rx) {
    return atomic_load_explicit(&fb_super(rx->chan)->epoch, memory_order_acquire) == rx->epoch;
}

/* The next record, copied to private memory, and its payload: 1, 0 when empty, or FB_BAD_PEER.
 * The payload of INLINE and CTRL stays valid until fb_rx_publish. */
static inline int fb_rx_next(struct fb_rx *rx, struct fb_record *record, const unsigned char **payload) {
    if (!fb_rx_current(rx)) return 0; /* reclaimed: what is there now is for another consumer */
    for (;;) {
        uint64_t cap = rx->g.ring_bytes, here = rx->head & (cap - 1), left = rx->tail - rx->head, bytes;
        union {
            struct fb_record record;
            uint64_t word[8];
        } copy;
        if (left == 0) {
            rx->tail = atomic_load_explicit(&fb_producer(rx->chan)->tail, memory_order_acquire);
            left = rx->tail - rx->head;
            if (left == 0) return 0;
            if (left > cap || left % FB_ALIGN) {
                rx->tail = rx->head;
                return fb_rx_bad(rx, "the tail is outside the ring");
            }
        }
        unsigned char *at = rx->chan + FB_RING + here;
        for (int i = 0; i < 8; i++)
            copy.word[i] = atomic_load_explicit((_Atomic uint64_t *)(void *)at + i, memory_order_relaxed);
        switch (copy.record.kind) {
        case FB_PAD:
            if (cap - here > left) return fb_rx_bad(rx, "a pad record beyond the tail");
            rx->head += cap - here;
            continue;
        case FB_INLINE:
        case FB_CTRL:
            if (copy.record.length > cap / 2 - FB_ALIGN) return fb_rx_bad(rx, "the length of an inline record");
            bytes = FB_ALIGN + ((copy.record.length + FB_ALIGN - 1) & ~(uint64_t)(FB_ALIGN - 1));
            *payload = at + FB_ALIGN;
            break;
        case FB_SLOT: {
            uint32_t class = copy.record.slot >> 28, index = copy.record.slot & 0x0FFFFFFF;
            if (class >= rx->g.classes || index >= rx->g.shape[class].count)
                return fb_rx_bad(rx, "a slot that does not exist");
            if (copy.record.length > rx->g.shape[class].slot_bytes) return fb_rx_bad(rx, "the length of a slot record");
            bytes = FB_ALIGN;
            *payload = rx->pool + rx->g.shape[class].offset + (uint64_t)index * rx->g.shape[class].slot_bytes;
            break;
        }
        default:
            return fb_rx_bad(rx, "a kind of record that does not exist");
        }
        if (bytes > left || here + bytes > cap) return fb_rx_bad(rx, "a record beyond the tail");
        *record = copy.record;
        rx->head += bytes;
        rx->head_seq++;
        return 1;
    }
}

/* Wakes a producer that waits for something which `have` now offers (FB_WANT_*; 0 asks the cursors alone). */
static inline void fb_rx_wake(struct fb_rx *rx, uint32_t have) {
    struct fb_producer_page *p = fb_producer(rx->chan);
    /* Orders what was just released before the look at the wait word; without it wake-ups are lost, on x86 too. */
    atomic_thread_fence(memory_order_seq_cst);
    uint32_t wait = atomic_load_explicit(&p->space_wait, memory_order_relaxed);
    if (wait == 0) return;
    have |= FB_WANT_ANY;
    /* Only at the low watermark, so that a full channel does not cost a wake-up for every message. */
    if (rx->g.window_items != 0 &&
        atomic_load_explicit(&p->tail_seq, memory_order_relaxed) - rx->head_seq <= rx->low_items)
        have |= FB_WANT_CREDIT;
    if (atomic_load_explicit(&p->tail, memory_order_relaxed) - rx->head <= rx->low_bytes) have |= FB_WANT_RING;
    if ((wait & have) == 0) return;
    wait = atomic_exchange_explicit(&p->space_wait, 0, memory_order_acq_rel);
    if (wait == 0) return;
    rx->wakes++;
    if ((wait & FB_HOW) == FB_BY_EVENTFD)
        fb_event_write(rx->space_fd);
    else
        fb_futex_wake(&fb_consumer(rx->chan)->space_seq);
}

/* Gives the bytes and the credit of everything taken so far back to the producer. */
static inline void fb_rx_publish(struct fb_rx *rx) {
    struct fb_consumer_page *c = fb_consumer(rx->chan);
    if (rx->head == rx->published || !fb_rx_current(rx)) return;
    rx->published = rx->head;
    atomic_store_explicit(&c->head_seq, rx->head_seq, memory_order_relaxed);
    atomic_store_explicit(&c->head, rx->head, memory_order_release);
    fb_rx_wake(rx, 0);
}

static inline void fb_rx_return(struct fb_rx *rx, uint32_t slot, uint32_t gen) {
    uint64_t taken = atomic_load_explicit(&fb_producer(rx->chan)->completion_head, memory_order_acquire);
    if (!fb_rx_current(rx)) return; /* reclaimed: the slot is somebody else's by now */
    if (rx->completion_tail - taken >= rx->g.completion_items) {
        rx->returns_lost++; /* only a broken producer has more slots out than the ring has places */
        return;
    }
    unsigned char *at = rx->chan + rx->g.completion_offset + (rx->completion_tail & (rx->g.completion_items - 1)) * 8;
    atomic_store_explicit((_Atomic uint64_t *)(void *)at, (uint64_t)gen << 32 | slot, memory_order_relaxed);
    rx->completion_tail++;
    atomic_store_explicit(&fb_consumer(rx->chan)->completion_tail, rx->completion_tail, memory_order_release);
    fb_rx_wake(rx, FB_WANT_SLOTS);
}

/* The places of the lease table, from the private geometry. */
static inline void fb_rx_place_leases(struct fb_rx *rx) {
    uint64_t at = rx->g.lease_offset;
    for (uint32_t i = 0; i < rx->g.classes; at += 8ull * rx->g.shape[i++].count) rx->lease_at[i] = at;
}

/* Writes down since when a slot is lent (0: no more), for those who look from outside; nothing ever depends on it. */
static inline void fb_rx_note(struct fb_rx *rx, uint32_t slot, int64_t since_ns) {
    if (!fb_rx_current(rx)) return;
    unsigned char *at = rx->chan + rx->lease_at[slot >> 28] + 8ull * (slot & 0x0FFFFFFF);
    atomic_store_explicit((_Atomic uint64_t *)(void *)at, (uint64_t)since_ns, memory_order_relaxed);
}

static inline int fb_rx_ready(struct fb_rx *rx) {
    return atomic_load_explicit(&fb_producer(rx->chan)->tail, memory_order_acquire) != rx->head ||
           atomic_load_explicit(&fb_super(rx->chan)->state, memory_order_acquire) != FB_READY || !fb_rx_current(rx) ||
           atomic_load_explicit(&rx->stop, memory_order_relaxed);
}

/* Announces a sleeper. Returns 1 when there is nothing yet: the next publish wakes it. */
static inline int fb_rx_arm(struct fb_rx *rx, uint32_t how) {
    struct fb_consumer_page *c = fb_consumer(rx->chan);
    atomic_store_explicit(&c->data_wait, how, memory_order_relaxed);
    atomic_thread_fence(memory_order_seq_cst);
    if (!fb_rx_ready(rx)) return 1;
    atomic_store_explicit(&c->data_wait, 0, memory_order_relaxed);
    return 0;
}

/* Waits until there is something to look at, at most wait_ns. Call it without locks: it sleeps. */
static inline int fb_rx_wait(struct fb_rx *rx, int64_t wait_ns, int64_t spin_ns) {
    if (spin_ns > 0) {
        int64_t until = fb_now_ns() + spin_ns;
        do {
            for (int i = 0; i < 32; i++) {
                if (fb_rx_ready(rx)) return FB_WOKEN;
                fb_pause();
            }
        } while (fb_now_ns() < until);
    }
    struct fb_producer_page *p = fb_producer(rx->chan);
    uint32_t seen = atomic_load_explicit(&p->data_seq, memory_order_acquire);
    if (!fb_rx_arm(rx, FB_BY_FUTEX)) return FB_WOKEN;
    int how = fb_futex_wait(&p->data_seq, seen, wait_ns);
    atomic_store_explicit(&fb_consumer(rx->chan)->data_wait, 0, memory_order_relaxed);
    if (!fb_rx_ready(rx)) return how;
    if (how == FB_TIMED_OUT) rx->late_wakes++; /* something was there, and nobody said so */
    return FB_WOKEN;
}

/* How long to look before a sleep: all of it while the last waits were shorter, nothing when looking was in vain. */
static inline int64_t fb_rx_window(struct fb_rx *rx, int64_t spin_ns_max) {
    return rx->waits_ns > spin_ns_max ? 0 : spin_ns_max;
}

/* Remembers how long a wait was. One long pause counts as a short one too many, not as a hundred. */
static inline void fb_rx_waited(struct fb_rx *rx, int64_t wait_ns, int64_t spin_ns_max) {
    int64_t most = 2 * spin_ns_max;
    rx->waits_ns += ((wait_ns < most ? wait_ns : most) - rx->waits_ns) / 8;
}

#endif
