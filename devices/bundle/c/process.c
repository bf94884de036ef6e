/* Clock, memory and the counting marker. */
#include "runner.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define MAX_RANGES 4096
#define PAUSE_US 2000

int64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

void mark(int tag) {
    /* Fails with EBADF everywhere; the plugin sees the first argument go by. */
    lseek(-7777, tag, SEEK_SET);
}

void limit_memory(int64_t bytes) {
    if (bytes > 0) {
        struct rlimit limit = {(rlim_t)bytes, (rlim_t)bytes};
        setrlimit(RLIMIT_AS, &limit);
    }
}

/* ---- the guest's share of an emulator's memory ----
 * /proc/self/maps is answered by the emulator and lists the guest's mappings only; the kernel's
 * own list, with the resident size of each mapping, is still found under thread-self. */
struct range {
    uint64_t from, to;
};
static struct range ranges[MAX_RANGES];
static bool emulated;
static volatile int64_t guest_peak;
static pthread_mutex_t busy = PTHREAD_MUTEX_INITIALIZER;

static int guest_ranges(void) {
    char line[512];
    int count = 0;
    FILE *file = fopen("/proc/self/maps", "r");
    while (file && count < MAX_RANGES && fgets(line, sizeof line, file))
        if (sscanf(line, "%" SCNx64 "-%" SCNx64, &ranges[count].from, &ranges[count].to) == 2)
            count++;
    if (file)
        fclose(file);
    return count;
}

static uint64_t overlap(uint64_t from, uint64_t to, int count) {
    uint64_t shared = 0;
    for (int i = 0; i < count; i++) {
        uint64_t low = from > ranges[i].from ? from : ranges[i].from;
        uint64_t high = to < ranges[i].to ? to : ranges[i].to;
        if (low < high)
            shared += high - low;
    }
    return shared;
}

static int64_t guest_resident(void) {
    char line[512];
    uint64_t from = 0, to = 0, a, b;
    int64_t total = 0, kib;
    pthread_mutex_lock(&busy);
    int count = guest_ranges();
    FILE *file = fopen("/proc/thread-self/smaps", "r");
    while (file && fgets(line, sizeof line, file)) {
        if (sscanf(line, "Rss: %" SCNd64 " kB", &kib) == 1) {
            /* The kernel may have merged a guest mapping with one of the emulator's. */
            uint64_t shared = overlap(from, to, count);
            if (shared)
                total += (int64_t)((double)kib * 1024 * ((double)shared / (double)(to - from)));
        } else if (sscanf(line, "%" SCNx64 "-%" SCNx64 " ", &a, &b) == 2 && strchr(line, ' ')) {
            from = a;
            to = b;
        }
    }
    if (file)
        fclose(file);
    if (total > guest_peak)
        guest_peak = total;
    pthread_mutex_unlock(&busy);
    return total;
}

static void *watch(void *unused) {
    (void)unused;
    for (;;) {
        guest_resident();
        usleep(PAUSE_US);
    }
    return NULL;
}

void resident_watch(bool inside) {
    pthread_t thread;
    emulated = inside;
    if (inside && pthread_create(&thread, NULL, watch, NULL) != 0)
        fail(INTERNAL, "cannot start the thread that samples memory");
}

static int64_t status_field(const char *name) {
    char line[256];
    int64_t kib = 0;
    size_t length = strlen(name);
    FILE *file = fopen("/proc/self/status", "r");
    while (file && fgets(line, sizeof line, file))
        if (!strncmp(line, name, length) && line[length] == ':')
            kib = strtoll(line + length + 1, NULL, 10);
    if (file)
        fclose(file);
    return kib * 1024;
}

struct resident resident_bytes(void) {
    struct resident result = {status_field("VmHWM"), status_field("VmRSS"), "VmHWM"};
    if (emulated) {
        result.now = guest_resident();
        result.peak = guest_peak;
        result.source = "guest mappings, sampled";
    } else if (!result.peak) {
        struct rusage usage;
        getrusage(RUSAGE_SELF, &usage);
        result.peak = result.now = usage.ru_maxrss * 1024;
        result.source = "getrusage";
    }
    return result;
}
