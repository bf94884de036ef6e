/* Records what an emulated AArch64 program executes between two markers: its blocks, how often each
 * ran, and what a model of the board's caches and branch predictor makes of it.
 *
 * A plugin for qemu-aarch64 (user mode), beside counting.c: the same markers, the same way of
 * declaring the interface. The caches (l1d=, l1i=, l2=, l3= in KiB, 0 = none) are filled from the
 * first marker on; from marker run= to the next, events count. The file out= gets a line of totals
 * and a line for each block: executions, and its instructions in hexadecimal.
 */
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MARKER_CALL 62 /* lseek */
#define MARKER_FILE (-7777)
#define LINE_SHIFT 6
#define STREAMS 16 /* what a prefetcher follows at a time */
#define PREDICTOR (1 << 14)

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
extern void qemu_plugin_register_vcpu_mem_cb(struct qemu_plugin_insn *,
                                             void (*)(unsigned, uint32_t, uint64_t, void *), int,
                                             int, void *);
extern unsigned qemu_plugin_mem_size_shift(uint32_t);
extern int qemu_plugin_mem_is_store(uint32_t);
extern void qemu_plugin_register_vcpu_syscall_cb(
    plugin_id, void (*)(plugin_id, unsigned, int64_t, uint64_t, uint64_t, uint64_t, uint64_t,
                        uint64_t, uint64_t, uint64_t, uint64_t));
extern void qemu_plugin_register_atexit_cb(plugin_id, void (*)(plugin_id, void *), void *);
extern size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
extern uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb *);
extern struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
#if PLUGIN_API >= 3
extern size_t qemu_plugin_insn_data(const struct qemu_plugin_insn *, void *, size_t);
#else
extern const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *);
#endif

#define EXPORT __attribute__((visibility("default")))
EXPORT int qemu_plugin_version = PLUGIN_API;
EXPORT int qemu_plugin_install(plugin_id id, const struct info *info, int argc, char **argv);

enum { OFF, WARM, ON };
/* Lines of 64 bytes: found in L2, in L3, in neither, each as part of a stream or not; written back
 * out of the last cache; instruction lines that L1I lacked; branches that went another way. */
enum { L2, L2_ALONE, L3, L3_ALONE, MEMORY, MEMORY_ALONE, WRITTEN, L1I_MISSES, MISPREDICTED, EVENTS };

struct cache {
    unsigned ways;
    uint64_t sets, clock;
    struct way {
        uint64_t line, used; /* line + 1; 0 = empty */
        int dirty;
    } *entries;
    unsigned *recent;
};

struct block {
    uint64_t executions, start, target;
    size_t length;
    enum { STRAIGHT, CONDITIONAL, INDIRECT } end;
    uint32_t *code;
    struct block *next;
};

static struct cache l1d, l1i, l2, l3;
static uint64_t events[EVENTS], streams[STREAMS], path;
static unsigned stream_turn;
static uint8_t predictor[PREDICTOR];
static struct block *blocks, *before;
static int state, markers, measured = 2;
static char *target;

static void *need(void *memory) {
    if (!memory)
        abort();
    return memory;
}

static void make_cache(struct cache *cache, uint64_t kib, unsigned ways) {
    cache->ways = ways;
    cache->sets = kib * 1024 / ((uint64_t)ways << LINE_SHIFT);
    if (!cache->sets)
        return;
    cache->entries = need(calloc(cache->sets * ways, sizeof *cache->entries));
    cache->recent = need(calloc(cache->sets, sizeof *cache->recent));
}

/* Whether a line is there; if not it takes the place of the oldest, whose line + 1 goes to `out`
 * where it has to be written back. */
static int touch(struct cache *cache, uint64_t line, int store, uint64_t *out) {
    uint64_t set = line % cache->sets;
    struct way *ways = cache->entries + set * cache->ways;
    unsigned oldest = 0, way = cache->recent[set];
    *out = 0;
    cache->clock++;
    if (ways[way].line != line + 1)
        for (way = 0; way < cache->ways && ways[way].line != line + 1; way++)
            if (ways[way].used < ways[oldest].used)
                oldest = way;
    int found = way < cache->ways;
    if (!found) {
        way = oldest;
        if (ways[way].dirty)
            *out = ways[way].line;
        ways[way] = (struct way){line + 1, 0, 0};
    }
    ways[way].used = cache->clock;
    ways[way].dirty |= store;
    cache->recent[set] = way;
    return found;
}

static void count(int event) {
    if (state == ON)
        events[event]++;
}

/* Whether a line continues one of the last streams. */
static int streamed(uint64_t line) {
    for (int i = 0; i < STREAMS; i++)
        if (line - streams[i] - 1 < 2) {
            streams[i] = line;
            return 1;
        }
    streams[stream_turn++ % STREAMS] = line;
    return 0;
}

/* A line leaves L1D or L2 and has to be kept further out. */
static void write_back(uint64_t line, struct cache *from) {
    struct cache *to = from == &l1d ? &l2 : l3.sets && from == &l2 ? &l3 : NULL;
    uint64_t out = 0;
    if (!to)
        count(WRITTEN);
    else if (touch(to, line, 1, &out), out)
        write_back(out - 1, to);
}

static void fetch(uint64_t line) {
    int alone = !streamed(line), level = MEMORY;
    uint64_t out, further;
    if (touch(&l2, line, 0, &out))
        level = L2;
    else if (l3.sets) {
        if (touch(&l3, line, 0, &further))
            level = L3;
        if (further)
            write_back(further - 1, &l3);
    }
    count(level + alone);
    if (out)
        write_back(out - 1, &l2);
}

static void accessed(unsigned cpu, uint32_t info, uint64_t address, void *unused) {
    (void)cpu, (void)unused;
    if (state == OFF)
        return;
    uint64_t out, last = (address + (1u << qemu_plugin_mem_size_shift(info)) - 1) >> LINE_SHIFT;
    int store = qemu_plugin_mem_is_store(info);
    for (uint64_t line = address >> LINE_SHIFT; line <= last; line++) {
        if (touch(&l1d, line, store, &out))
            continue;
        fetch(line);
        if (out)
            write_back(out - 1, &l1d);
    }
}

/* Two-bit counters chosen by place and path; an indirect branch is expected where it last went. */
static void branched(struct block *from, uint64_t to) {
    if (from->end == INDIRECT) {
        if (from->target != to)
            count(MISPREDICTED);
        from->target = to;
    } else if (from->end == CONDITIONAL) {
        int taken = to != from->start + 4 * from->length;
        uint8_t *counter = predictor + (((from->start >> 2) ^ path) & (PREDICTOR - 1));
        if ((*counter >= 2) != taken)
            count(MISPREDICTED);
        if (taken ? *counter < 3 : *counter > 0)
            *counter = (uint8_t)(taken ? *counter + 1 : *counter - 1);
        path = (path << 1 | (uint64_t)taken) & 0xff;
    }
}

static void executed(unsigned cpu, void *data) {
    struct block *block = data;
    uint64_t out, last = (block->start + 4 * block->length - 1) >> LINE_SHIFT;
    (void)cpu;
    if (state == OFF)
        return;
    if (state == ON)
        block->executions++;
    for (uint64_t line = block->start >> LINE_SHIFT; line <= last; line++)
        if (!touch(&l1i, line, 0, &out)) {
            count(L1I_MISSES);
            if (!touch(&l2, line, 0, &out) && out)
                write_back(out - 1, &l2);
        }
    if (before)
        branched(before, block->start);
    before = block;
}

static void translated(plugin_id id, struct qemu_plugin_tb *tb) {
    struct block *block = need(calloc(1, sizeof *block));
    (void)id;
    block->length = qemu_plugin_tb_n_insns(tb);
    block->start = qemu_plugin_tb_vaddr(tb);
    block->code = need(calloc(block->length, sizeof *block->code));
    block->next = blocks;
    blocks = block;
    for (size_t i = 0; i < block->length; i++) {
        struct qemu_plugin_insn *instruction = qemu_plugin_tb_get_insn(tb, i);
#if PLUGIN_API >= 3
        qemu_plugin_insn_data(instruction, block->code + i, sizeof *block->code);
#else
        memcpy(block->code + i, qemu_plugin_insn_data(instruction), sizeof *block->code);
#endif
        if ((block->code[i] >> 25 & 5) == 4) /* loads and stores; 3: of both kinds */
            qemu_plugin_register_vcpu_mem_cb(instruction, accessed, 0, 3, NULL);
    }
    uint32_t end = block->code[block->length - 1];
    if (end >> 24 == 0x54 || (end >> 26 & 0x1f) == 0x0d) /* b.cond; cbz, cbnz, tbz, tbnz */
        block->end = CONDITIONAL;
    else if ((end & 0xffdffc1f) == 0xd61f0000) /* br, blr; a return is foreseen */
        block->end = INDIRECT;
    qemu_plugin_register_vcpu_tb_exec_cb(tb, executed, 0, block);
}

static void called(plugin_id id, unsigned thread, int64_t number, uint64_t a1, uint64_t a2,
                   uint64_t a3, uint64_t a4, uint64_t a5, uint64_t a6, uint64_t a7, uint64_t a8) {
    (void)id, (void)thread, (void)a2, (void)a3, (void)a4, (void)a5, (void)a6, (void)a7, (void)a8;
    if (number != MARKER_CALL || (int32_t)a1 != MARKER_FILE)
        return;
    markers++;
    state = markers < measured ? WARM : markers == measured ? ON : OFF;
}

static void finished(plugin_id id, void *unused) {
    FILE *file = fopen(target, "w");
    (void)id, (void)unused;
    if (!file)
        return;
    for (int i = 0; i < EVENTS; i++)
        fprintf(file, "%" PRIu64 "%c", events[i], i + 1 < EVENTS ? ' ' : '\n');
    for (struct block *block = blocks; block; block = block->next) {
        if (!block->executions)
            continue;
        fprintf(file, "%" PRIu64 " ", block->executions);
        for (size_t i = 0; i < block->length; i++)
            fprintf(file, "%08" PRIx32, block->code[i]);
        fputc('\n', file);
    }
    fprintf(file, "end %d\n", markers);
    fclose(file);
}

static unsigned option(int argc, char **argv, const char *name, unsigned usual) {
    size_t length = strlen(name);
    for (int i = 0; i < argc; i++)
        if (!strncmp(argv[i], name, length))
            return (unsigned)strtoul(argv[i] + length, NULL, 10);
    return usual;
}

int qemu_plugin_install(plugin_id id, const struct info *info, int argc, char **argv) {
    unsigned l2_kib = option(argc, argv, "l2=", 1024);
    for (int i = 0; i < argc; i++)
        if (!strncmp(argv[i], "out=", 4))
            target = strdup(argv[i] + 4);
    if (!target || strcmp(info->target_name, "aarch64") != 0)
        return 1;
    make_cache(&l1d, option(argc, argv, "l1d=", 32), 4);
    make_cache(&l1i, option(argc, argv, "l1i=", 32), 4);
    make_cache(&l2, l2_kib, l2_kib > 512 ? 16 : 8);
    make_cache(&l3, option(argc, argv, "l3=", 0), 16);
    if (!l1d.sets || !l1i.sets || !l2.sets)
        return 1;
    measured = (int)option(argc, argv, "run=", 2);
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_vcpu_syscall_cb(id, called);
    qemu_plugin_register_atexit_cb(id, finished, NULL);
    return 0;
}
