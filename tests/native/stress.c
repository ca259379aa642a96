/* Strains ring.h and slots.h with threads on one mapping, for the sanitizers and by itself.
 *
 *     stress [--rounds N] [--only NAME]
 *
 * order    a producer and a consumer thread, payloads in the ring and in slots, every byte checked, small ring
 * wake     one message at a time, the consumer asleep before most of them: a lost wake-up shows as a sleep that
 *          times out although something was published; by futex and by eventfd
 * returns  slots given back by several threads, in any order, under the lock that the interpreter is in the port
 *
 * Prints a line for each and ends with 0; with 3 and the reason when something is wrong.
 */
#define _GNU_SOURCE
#include "channel.h"
#include <poll.h>
#include <sched.h>

#define HELD 64
#define RETURNERS 3
#define SLEEP_MS 10000 /* far beyond any delay of a scheduler: who sleeps so long was not woken */

static uint64_t rounds = 20000;

struct job {
    struct channel ch;
    struct fb_tx tx;
    struct fb_rx rx;
    struct fb_pool pool;
    uint64_t rounds;
    int by_event;
};

static uint64_t length_of(uint64_t i) {
    uint64_t mixed = i * 0x9E3779B97F4A7C15ull >> 40;
    return mixed % 8 == 0 ? 1025 + mixed % 3000 : mixed % 1025;
}

static void start(struct job *job, uint64_t ring_bytes, uint64_t window, uint32_t slots) {
    channel_make(&job->ch, ring_bytes, window, 1024, 4096, slots);
    channel_tx(&job->ch, &job->tx, &job->pool);
    channel_rx(&job->ch, &job->rx);
}

static void run_with(struct job *job, void *(*other)(void *), void (*mine)(struct job *)) {
    pthread_t thread;
    must(pthread_create(&thread, NULL, other, job) == 0, "no thread");
    mine(job);
    pthread_join(thread, NULL);
    fb_pool_drain(&job->pool);
    for (uint32_t i = 0; i < job->pool.classes; i++)
        must(job->pool.of[i].free_count == job->pool.of[i].count, "a slot did not come back");
    must(job->pool.bogus_returns == 0, "a slot came back twice");
    channel_free(&job->ch, &job->pool);
}

/* --- order ------------------------------------------------------------------------------------------------------ */

static void *order_producer(void *of) {
    struct job *job = of;
    unsigned char payload[4096];
    for (uint64_t i = 0; i < job->rounds; i++) {
        uint64_t length = length_of(i);
        memset(payload, (int)(i * 37 & 0xFF), length);
        channel_send(&job->tx, payload, length, i);
    }
    return NULL;
}

static void order_consumer(struct job *job) {
    struct fb_record r;
    const unsigned char *at;
    for (uint64_t i = 0; i < job->rounds; i++) {
        channel_receive(&job->rx, &r, &at, i % 3 ? 0 : 2000);
        must(r.seq == i && r.length == length_of(i), "order: another message than was sent");
        for (uint64_t k = 0; k < r.length; k++) must(at[k] == (i * 37 & 0xFF), "order: other bytes than were sent");
        channel_release(&job->rx, &r);
    }
}

/* --- wake ------------------------------------------------------------------------------------------------------- */

static _Atomic uint64_t taken;

/* Publishes one message when the last one was taken, now and then later, so that every moment of falling asleep is hit. */
static void *wake_producer(void *of) {
    struct job *job = of;
    uint64_t noise = 88172645463325252ull;
    for (uint64_t i = 0; i < job->rounds; i++) {
        while (atomic_load_explicit(&taken, memory_order_acquire) != i) sched_yield();
        noise ^= noise << 13;
        noise ^= noise >> 7;
        noise ^= noise << 17;
        for (uint64_t k = noise % 64; k > 0; k--) fb_pause();
        channel_send(&job->tx, &i, 8, i);
    }
    return NULL;
}

static void sleep_by_event(struct job *job) {
    struct pollfd readable = {.fd = job->ch.data_fd, .events = POLLIN};
    if (!fb_rx_arm(&job->rx, FB_BY_EVENTFD)) return;
    must(poll(&readable, 1, SLEEP_MS) == 1, "wake: an event was lost");
    atomic_store_explicit(&fb_consumer(job->rx.chan)->data_wait, 0, memory_order_relaxed);
    fb_event_clear(job->ch.data_fd);
}

static void sleep_by_futex(struct job *job) {
    _Atomic uint32_t *word = &fb_producer(job->rx.chan)->data_seq;
    uint32_t seen = atomic_load_explicit(word, memory_order_acquire);
    if (!fb_rx_arm(&job->rx, FB_BY_FUTEX)) return;
    must(fb_futex_wait(word, seen, SLEEP_MS * 1000000ll) != FB_TIMED_OUT, "wake: a wake-up was lost");
    atomic_store_explicit(&fb_consumer(job->rx.chan)->data_wait, 0, memory_order_relaxed);
}

static void wake_consumer(struct job *job) {
    struct fb_record r;
    const unsigned char *at;
    for (uint64_t i = 0; i < job->rounds; i++) {
        int got;
        while ((got = fb_rx_next(&job->rx, &r, &at)) == 0)
            if (job->by_event)
                sleep_by_event(job);
            else
                sleep_by_futex(job);
        must(got == 1 && r.seq == i, "wake: another message than was sent");
        channel_release(&job->rx, &r);
        atomic_store_explicit(&taken, i + 1, memory_order_release);
    }
}

/* --- returns ---------------------------------------------------------------------------------------------------- */

static struct fb_record held[HELD];
static int held_count, all_taken;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* the interpreter, in the port */

static void *returner(void *of) {
    struct job *job = of;
    for (;;) {
        pthread_mutex_lock(&lock);
        if (held_count) {
            uint64_t pick = held[held_count - 1].seq % (uint64_t)held_count; /* not in the order of their arrival */
            struct fb_record r = held[pick];
            held[pick] = held[--held_count];
            fb_rx_return(&job->rx, r.slot, r.gen);
        } else if (all_taken) {
            pthread_mutex_unlock(&lock);
            return NULL;
        }
        pthread_mutex_unlock(&lock);
        sched_yield();
    }
}

static void *slot_producer(void *of) {
    struct job *job = of;
    unsigned char payload[4096];
    for (uint64_t i = 0; i < job->rounds; i++) {
        memset(payload, (int)(i & 0xFF), sizeof payload);
        channel_send(&job->tx, payload, sizeof payload, i);
    }
    return NULL;
}

static void slot_consumer(struct job *job) {
    struct fb_record r;
    const unsigned char *at;
    pthread_t threads[RETURNERS];
    for (int t = 0; t < RETURNERS; t++) must(pthread_create(&threads[t], NULL, returner, job) == 0, "no thread");
    for (uint64_t i = 0; i < job->rounds;) {
        pthread_mutex_lock(&lock);
        int got = held_count == HELD ? 0 : fb_rx_next(&job->rx, &r, &at);
        if (got == 1) {
            must(r.seq == i && r.kind == FB_SLOT, "returns: another message than was sent");
            must(at[0] == (i & 0xFF) && at[4095] == (i & 0xFF), "returns: a slot was used again while it was held");
            held[held_count++] = r;
            fb_rx_publish(&job->rx);
            i++;
        }
        pthread_mutex_unlock(&lock);
        must(got >= 0, "returns: the consumer is refused");
        if (got == 0) sched_yield();
    }
    pthread_mutex_lock(&lock);
    all_taken = 1;
    pthread_mutex_unlock(&lock);
    for (int t = 0; t < RETURNERS; t++) pthread_join(threads[t], NULL);
    must(job->rx.returns_lost == 0, "returns: a slot could not be given back");
}

int main(int argc, char **argv) {
    const char *only = NULL;
    for (int i = 1; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--rounds") == 0) rounds = strtoull(argv[i + 1], NULL, 10);
        if (strcmp(argv[i], "--only") == 0) only = argv[i + 1];
    }
    struct job job;
    if (!only || strcmp(only, "order") == 0) {
        job = (struct job){.rounds = rounds};
        start(&job, 8192, 16, 3);
        run_with(&job, order_producer, order_consumer);
        printf("order %llu ok\n", (unsigned long long)rounds);
    }
    for (int by_event = 0; by_event < 2; by_event++) {
        if (only && strcmp(only, "wake") != 0) break;
        job = (struct job){.rounds = rounds, .by_event = by_event};
        atomic_store(&taken, 0);
        start(&job, 4096, 1024, 0);
        run_with(&job, wake_producer, wake_consumer);
        printf("wake by %s %llu ok\n", by_event ? "eventfd" : "futex", (unsigned long long)rounds);
    }
    if (!only || strcmp(only, "returns") == 0) {
        job = (struct job){.rounds = rounds};
        start(&job, 8192, 64, 8);
        run_with(&job, slot_producer, slot_consumer);
        printf("returns %llu ok\n", (unsigned long long)rounds);
    }
    return 0;
}
