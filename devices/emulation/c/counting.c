/* Counts the instructions that an emulated AArch64 program executes between two markers.
 *
 * A plugin for qemu-aarch64 (user mode). The program marks a place by the system call
 * lseek(-7777, tag, 0), which fails harmlessly everywhere. At the end a line per marker is written
 * to the file of the argument out=: the tag, and what was executed up to there, by class, all
 * threads together; then "end" and the number of threads seen.
 *
 * The few functions of the plugin interface that are used are declared here, so that this builds
 * without qemu's headers. PLUGIN_API is the version of the interface: 1 for qemu up to 8.2, 2 for
 * 9.0, 3 from 9.1 on (a function that hands out instruction bytes changed its arguments there).
 */
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MARKER_CALL 62 /* lseek */
#define MARKER_FILE (-7777)
#define MAX_THREADS 64
#define MAX_MARKERS 4096

enum class { TOTAL, SIMD, LDST, FMLA, DOT, CLASSES };

typedef uint64_t plugin_id;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
struct info {
    const char *target_name;
    struct {
        int min, cur;
    } version;
};

extern void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id,
                                                  void (*)(plugin_id, struct qemu_plugin_tb *));
extern void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *,
                                                 void (*)(unsigned, void *), int, void *);
extern void qemu_plugin_register_vcpu_syscall_cb(
    plugin_id, void (*)(plugin_id, unsigned, int64_t, uint64_t, uint64_t, uint64_t, uint64_t,
                        uint64_t, uint64_t, uint64_t, uint64_t));
extern void qemu_plugin_register_atexit_cb(plugin_id, void (*)(plugin_id, void *), void *);
extern size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
extern struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
#if PLUGIN_API >= 3
extern size_t qemu_plugin_insn_data(const struct qemu_plugin_insn *, void *, size_t);
#else
extern const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *);
#endif

#define EXPORT __attribute__((visibility("default")))
EXPORT int qemu_plugin_version = PLUGIN_API;
EXPORT int qemu_plugin_install(plugin_id id, const struct info *info, int argc, char **argv);

/* One thread writes one row: no locks, and a line of cache for each. */
static struct {
    uint64_t counts[CLASSES];
} __attribute__((aligned(64))) rows[MAX_THREADS];
static unsigned threads;

static struct {
    int64_t tag;
    uint64_t counts[CLASSES];
} markers[MAX_MARKERS];
static size_t marked;
static char *target;

static uint32_t word_of(const struct qemu_plugin_insn *instruction) {
    uint32_t word = 0;
#if PLUGIN_API >= 3
    qemu_plugin_insn_data(instruction, &word, sizeof word);
#else
    memcpy(&word, qemu_plugin_insn_data(instruction), sizeof word);
#endif
    return word;
}

/* Classes by the encoding groups of the architecture manual: bits 28:25. A SIMD load belongs to
 * LDST only; FMLA and DOT are parts of SIMD. */
static void classify(uint32_t word, uint64_t *counts) {
    counts[TOTAL]++;
    if ((word >> 25 & 5) == 4) { /* x1x0: loads and stores */
        counts[LDST]++;
        return;
    }
    if ((word >> 25 & 7) != 7) /* x111: scalar floating point and SIMD */
        return;
    counts[SIMD]++;
    if ((word & 0xbfa0fc00) == 0x0e20cc00 || (word & 0xbf80f400) == 0x0f801000) /* by element */
        counts[FMLA]++;
    if ((word & 0x9fe0fc00) == 0x0e809400 || (word & 0x9f00f400) == 0x0f00e000 ||
        (word & 0xbfc0f400) == 0x0f80f000 || (word & 0xbfe0fc00) == 0x0e809c00 ||
        (word & 0x9fe0f400) == 0x0e80a400) /* s/udot, by element; usdot; s/u/usmmla */
        counts[DOT]++;
}

static void executed(unsigned thread, void *data) {
    const uint64_t *counts = data;
    if (thread >= MAX_THREADS)
        thread = MAX_THREADS - 1;
    if (thread >= threads)
        threads = thread + 1;
    for (int i = 0; i < CLASSES; i++)
        rows[thread].counts[i] += counts[i];
}

static void translated(plugin_id id, struct qemu_plugin_tb *block) {
    size_t length = qemu_plugin_tb_n_insns(block);
    uint64_t *counts = calloc(CLASSES, sizeof *counts);
    (void)id;
    if (!counts)
        abort();
    for (size_t i = 0; i < length; i++)
        classify(word_of(qemu_plugin_tb_get_insn(block, i)), counts);
    qemu_plugin_register_vcpu_tb_exec_cb(block, executed, 0, counts);
}

static void called(plugin_id id, unsigned thread, int64_t number, uint64_t a1, uint64_t a2,
                   uint64_t a3, uint64_t a4, uint64_t a5, uint64_t a6, uint64_t a7, uint64_t a8) {
    (void)id, (void)thread, (void)a3, (void)a4, (void)a5, (void)a6, (void)a7, (void)a8;
    if (number != MARKER_CALL || (int32_t)a1 != MARKER_FILE || marked == MAX_MARKERS)
        return;
    markers[marked].tag = (int64_t)a2;
    for (unsigned t = 0; t < threads; t++)
        for (int i = 0; i < CLASSES; i++)
            markers[marked].counts[i] += rows[t].counts[i];
    marked++;
}

static void finished(plugin_id id, void *unused) {
    FILE *file = fopen(target, "w");
    (void)id, (void)unused;
    if (!file)
        return;
    for (size_t m = 0; m < marked; m++) {
        fprintf(file, "%" PRId64, markers[m].tag);
        for (int i = 0; i < CLASSES; i++)
            fprintf(file, " %" PRIu64, markers[m].counts[i]);
        fputc('\n', file);
    }
    fprintf(file, "end %u\n", threads);
    fclose(file);
}

int qemu_plugin_install(plugin_id id, const struct info *info, int argc, char **argv) {
    for (int i = 0; i < argc; i++)
        if (!strncmp(argv[i], "out=", 4))
            target = strdup(argv[i] + 4);
    if (!target || strcmp(info->target_name, "aarch64") != 0)
        return 1;
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_vcpu_syscall_cb(id, called);
    qemu_plugin_register_atexit_cb(id, finished, NULL);
    return 0;
}
