/* What the ring allows: two C processes, one memcpy in, read in place. `ipc_limit BYTES COUNT CPU0 CPU1 ECHO`
 * prints the medians of the round trip and of one way, and the CPU of both processes per round trip, as JSON. */
#define _GNU_SOURCE
#include "channel.h"
#include <sched.h>
#include <sys/resource.h>
#include <sys/wait.h>

static int by_size(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static int64_t cpu_ns(void) {
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1000000000ll + (u.ru_utime.tv_usec + u.ru_stime.tv_usec) * 1000ll;
}

static void pin(int cpu) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    must(sched_setaffinity(0, sizeof set, &set) == 0, "cannot be pinned");
}

struct shared {
    int64_t cpu_ns, one_way_p50, one_way_p99;
};

int main(int argc, char **argv) {
    must(argc == 6, "usage: ipc_limit BYTES COUNT CPU0 CPU1 ECHO");
    uint64_t length = strtoull(argv[1], NULL, 10), count = strtoull(argv[2], NULL, 10), warm = count / 10;
    int echo = atoi(argv[5]);
    uint64_t back = echo ? length : 16;
    struct channel there, here;
    uint32_t slots = length > 1024 ? 4 : 0;
    channel_make(&there, 256 << 10, 1024, 1024, (length + 63) & ~63ull, slots);
    channel_make(&here, 256 << 10, 1024, 1024, (length + 63) & ~63ull, slots);
    struct shared *shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    must(shared != MAP_FAILED, "no memory");
    struct fb_tx tx;
    struct fb_rx rx;
    struct fb_pool pool;
    struct fb_record r;
    const unsigned char *at;
    unsigned char *payload = malloc(length);
    int64_t *took = malloc(count * sizeof *took), before = 0;
    must(payload && took, "no memory");
    memset(payload, 7, length);
    int child = fork() == 0;
    pin(atoi(argv[child ? 4 : 3]));
    channel_tx(child ? &here : &there, &tx, &pool);
    channel_rx(child ? &there : &here, &rx);
    for (uint64_t i = 0; i < warm + count; i++) {
        if (i == warm) before = cpu_ns();
        int64_t now = fb_now_ns(), sent;
        if (child) {
            channel_receive(&rx, &r, &at, 0);
            memcpy(&sent, at, 8);
            if (i >= warm) took[i - warm] = fb_now_ns() - sent;
            channel_send(&tx, echo ? at : payload, back, i);
            channel_release(&rx, &r);
        } else {
            memcpy(payload, &now, 8);
            channel_send(&tx, payload, length, i);
            channel_receive(&rx, &r, &at, 0);
            must(r.seq == i && r.length == back, "something else came back");
            channel_release(&rx, &r);
            if (i >= warm) took[i - warm] = fb_now_ns() - now;
        }
    }
    int64_t cpu = cpu_ns() - before;
    qsort(took, count, sizeof *took, by_size);
    if (child) {
        *shared = (struct shared){cpu, took[count / 2], took[count * 99 / 100]};
        _exit(0);
    }
    int status = 1;
    wait(&status);
    must(status == 0, "the other process failed");
    printf("{\"rtt_p50_us\": %.3f, \"rtt_p99_us\": %.3f, \"one_way_p50_us\": %.3f, \"one_way_p99_us\": %.3f, \"cpu_us\": %.3f}\n",
           took[count / 2] / 1e3, took[count * 99 / 100] / 1e3, shared->one_way_p50 / 1e3, shared->one_way_p99 / 1e3,
           (cpu + shared->cpu_ns) / 1e3 / count);
    return 0;
}
