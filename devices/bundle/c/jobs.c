/* What a job can ask for: logits, times, memory, markers for the instruction counter. */
#include "runner.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MAX_MODELS 8
#define MAX_BATCH 65536

void random_inputs(float *target, int64_t count, uint64_t seed) {
    uint64_t state = seed * 0x9e3779b97f4a7c15u + 0x2545f4914f6cdd1du;
    for (int64_t i = 0; i < count; i++) { /* splitmix64, values in [0, 1) */
        uint64_t z = state += 0x9e3779b97f4a7c15u;
        z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
        z = (z ^ z >> 27) * 0x94d049bb133111ebu;
        target[i] = (float)((z ^ z >> 31) >> 40) * 0x1p-24f;
    }
}

void model_run(struct model *model, const float *batch, int64_t rows) {
    if (model->rows != rows)
        model->bind(model, rows);
    memcpy(model->input, batch, (size_t)(rows * model->features) * sizeof(float));
    model->run(model);
}

struct model *job_model(const struct json *job) {
    const char *path = json_text(job, "model", NULL);
    if (!path)
        fail(BAD_INPUT, "job: model is missing");
    return model_open(json_text(job, "runtime", ""), path, json_int(job, "threads", 1, 1, 64),
                      json_number(job, "optimize", 1) != 0);
}

static void check_inputs(const struct model *model, const struct array *inputs) {
    bool fits = inputs->rank == model->rank + 1 && inputs->shape[0] > 0;
    for (int i = 0; fits && i < model->rank; i++)
        fits = inputs->shape[i + 1] == model->sample[i];
    if (!fits)
        fail(BAD_INPUT, "%s: expected inputs (N, %lld%s) of %lld values a sample, found rank %d",
             model->path, (long long)model->sample[0], model->rank > 1 ? ", ..." : "",
             (long long)model->features, inputs->rank);
}

/* All samples, `size` at a time; a file of fixed batch size gets that, the last one padded. */
static void in_batches(struct model *model, const struct array *inputs, int64_t size, float *logits) {
    int64_t total = inputs->shape[0], features = model->features;
    if (model->fixed)
        size = model->fixed;
    float *padded = need(malloc((size_t)(size * features) * sizeof(float)));
    for (int64_t start = 0; start < total; start += size) {
        int64_t rows = total - start < size ? total - start : size;
        const float *batch = inputs->data + start * features;
        if (model->fixed && rows < size) {
            for (int64_t i = 0; i < size; i++)
                memcpy(padded + i * features, batch + (i < rows ? i : rows - 1) * features,
                       (size_t)features * sizeof(float));
            batch = padded;
        }
        model_run(model, batch, model->fixed ? size : rows);
        memcpy(logits + start * model->classes, model->output,
               (size_t)(rows * model->classes) * sizeof(float));
    }
    free(padded);
}

static void print_nested(const float **at, const int64_t *shape, int rank) {
    out("[");
    for (int64_t i = 0; i < shape[0]; i++) {
        if (i)
            out(", ");
        if (rank > 1)
            print_nested(at, shape + 1, rank - 1);
        else
            out_number(*(*at)++);
    }
    out("]");
}

void job_run(const struct json *job) {
    struct json whole = {.type = J_NUMBER};
    struct array inputs = npy_read(json_text(job, "inputs", "")), logits = {0};
    struct model *model = job_model(job);
    check_inputs(model, &inputs);
    const struct json *batches = json_get(job, "batches");
    const struct json *first = batches ? batches->first : &whole;
    whole.number = (double)inputs.shape[0];
    if (!first || (batches && batches->type != J_ARRAY))
        fail(BAD_INPUT, "run needs at least one batch size");
    model->bind(model, model->fixed ? model->fixed : (int64_t)(first->number > 0 && first->number < (double)inputs.shape[0] ? first->number : (double)inputs.shape[0]));
    logits.rank = model->out_rank + 1;
    logits.shape[0] = batches ? (int64_t)json_length(batches) : 1;
    memcpy(logits.shape + 1, model->out_shape, sizeof(int64_t) * (size_t)model->out_rank);
    logits.shape[1] = inputs.shape[0];
    logits.data = need(malloc((size_t)array_size(&logits) * sizeof(float) + 1));
    float *part = logits.data;
    out(", \"version\": \"%s\", \"batches\": [", model->version);
    for (const struct json *item = first; item; item = item->next) {
        if (item->type != J_NUMBER || item->number < 1 || item->number > MAX_BATCH)
            fail(BAD_INPUT, "run needs batch sizes from 1 to %d", MAX_BATCH);
        in_batches(model, &inputs, (int64_t)item->number, part);
        part += inputs.shape[0] * model->classes;
        out("%s%lld", item == first ? "" : ", ", (long long)item->number);
    }
    out("], \"shape\": [");
    for (int i = 0; i < logits.rank; i++)
        out("%s%lld", i ? ", " : "", (long long)logits.shape[i]);
    out("]");
    const char *target = json_text(job, "output", NULL);
    const float *data = logits.data;
    if (target) {
        npy_write(target, &logits);
    } else {
        out(", \"logits\": ");
        print_nested(&data, logits.shape, logits.rank);
    }
}

struct timed {
    struct model *model;
    const char *name;
    int64_t block;
    double *samples;
    size_t count, room;
};

static int64_t repeat(struct timed *timed, const float *inputs, int64_t rows, int64_t runs) {
    int64_t start = now_ns();
    for (int64_t i = 0; i < runs; i++)
        model_run(timed->model, inputs, rows);
    return now_ns() - start;
}

/* How many runs make a block that the clock resolves. */
static int64_t block_size(struct timed *timed, const float *inputs, int64_t rows, double block_us) {
    for (int64_t runs = 1;; runs *= 2) {
        double spent = (double)repeat(timed, inputs, rows, runs) / 1000;
        if (spent >= block_us || runs >= 1 << 20) {
            double wanted = ceil((double)runs * block_us / (spent > block_us ? spent : block_us));
            return wanted < 1 ? 1 : (int64_t)wanted;
        }
    }
}

static void keep(struct timed *timed, double ms) {
    if (timed->count == timed->room) {
        timed->room = timed->room ? timed->room * 2 : 256;
        timed->samples = need(realloc(timed->samples, timed->room * sizeof(double)));
    }
    timed->samples[timed->count++] = ms;
}

static int rounds(const struct json *job, struct timed *timed, int models, const float *inputs,
                  int64_t rows) {
    int least = json_int(job, "min_rounds", 30, 1, 1 << 24);
    int per_round = json_int(job, "samples_per_round", 1, 1, 1000);
    double shortest = json_number(job, "min_seconds", 1) * 1e9;
    double longest = json_number(job, "max_seconds", 60) * 1e9;
    int64_t began = now_ns();
    for (int done = 0;;) {
        for (int turn = 0; turn < models; turn++) {
            struct timed *one = &timed[done % 2 ? models - 1 - turn : turn];
            /* The other model has emptied the caches; these runs fill them again. */
            repeat(one, inputs, rows, one->block < 3 ? one->block : 3);
            for (int i = 0; i < per_round; i++)
                keep(one, (double)repeat(one, inputs, rows, one->block) / (double)one->block / 1e6);
        }
        double spent = (double)(now_ns() - began);
        if (++done >= least && spent >= shortest)
            return done;
        if (done >= 3 && spent >= longest)
            return done;
    }
}

void job_latency(const struct json *job) {
    struct timed timed[MAX_MODELS] = {0};
    int models = 0, threads = json_int(job, "threads", 1, 1, 64);
    int warmup = json_int(job, "warmup", 5, 0, 1 << 20);
    int64_t rows = json_int(job, "batch", 1, 1, MAX_BATCH);
    const struct json *list = json_get(job, "models"), *entry = list ? list->first : NULL;
    for (; entry; entry = entry->next, models++) {
        if (models == MAX_MODELS)
            fail(BAD_INPUT, "at most %d models can be timed in turns", MAX_MODELS);
        timed[models].name = json_text(entry, "name", "");
        timed[models].model = model_open(json_text(job, "runtime", ""), json_text(entry, "path", ""),
                                         threads, true);
        if (timed[models].model->features != timed[0].model->features)
            fail(BAD_INPUT, "the models take different inputs: %lld and %lld values",
                 (long long)timed[0].model->features, (long long)timed[models].model->features);
    }
    if (!models)
        fail(BAD_INPUT, "latency needs at least one model");
    float *inputs = need(malloc((size_t)(rows * timed[0].model->features) * sizeof(float)));
    random_inputs(inputs, rows * timed[0].model->features, (uint64_t)json_number(job, "seed", 0));
    for (int i = 0; i < models; i++) {
        repeat(&timed[i], inputs, rows, warmup ? warmup : 1);
        timed[i].block = block_size(&timed[i], inputs, rows, json_number(job, "block_us", 200));
    }
    int done = rounds(job, timed, models, inputs, rows);
    out(", \"version\": \"%s\", \"models\": [", timed[0].model->version);
    for (int i = 0; i < models; i++) {
        out("%s{\"name\": ", i ? ", " : "");
        out_text(timed[i].name);
        out(", \"path\": ");
        out_text(timed[i].model->path);
        out(", \"samples_ms\": [");
        for (size_t k = 0; k < timed[i].count; k++) {
            out("%s", k ? ", " : "");
            out_number(timed[i].samples[k]);
        }
        out("], \"block_runs\": %lld}", (long long)timed[i].block);
    }
    out("], \"batch\": %lld, \"rounds\": %d, \"warmup\": %d, \"timer\": \"CLOCK_MONOTONIC\"",
        (long long)rows, done, warmup);
}

/* Inputs of a job that needs one batch: its own file, else seeded ones. */
static float *one_batch(const struct json *job, const struct model *model, int64_t rows) {
    const char *path = json_text(job, "inputs", NULL);
    if (path) {
        struct array inputs = npy_read(path);
        check_inputs(model, &inputs);
        if (inputs.shape[0] < rows)
            fail(BAD_INPUT, "inputs %s: fewer than %lld samples", path, (long long)rows);
        return inputs.data;
    }
    float *inputs = need(malloc((size_t)(rows * model->features) * sizeof(float)));
    random_inputs(inputs, rows * model->features, (uint64_t)json_number(job, "seed", 0));
    return inputs;
}

static int64_t job_rows(const struct json *job, const struct model *model) {
    return model->fixed ? model->fixed : json_int(job, "batch", 1, 1, MAX_BATCH);
}

void job_memory(const struct json *job) {
    int runs = json_int(job, "runs", 5, 1, 1 << 20);
    resident_watch(json_number(job, "emulated", 0) != 0);
    runtime_load(json_text(job, "runtime", "")); /* no part of loading the model */
    struct resident before = resident_bytes();
    int64_t start = now_ns();
    struct model *model = job_model(job);
    double load_ms = (double)(now_ns() - start) / 1e6;
    struct resident loaded = resident_bytes();
    int64_t rows = job_rows(job, model);
    float *inputs = one_batch(job, model, rows);
    start = now_ns();
    model_run(model, inputs, rows);
    double first_ms = (double)(now_ns() - start) / 1e6;
    for (int i = 1; i < runs; i++)
        model_run(model, inputs, rows);
    struct resident after = resident_bytes();
    out(", \"version\": \"%s\", \"load_ms\": ", model->version);
    out_number(load_ms);
    out(", \"first_run_ms\": ");
    out_number(first_ms);
    out(", \"peak_rss_bytes\": %lld, \"rss_before_bytes\": %lld, \"rss_loaded_bytes\": %lld, "
        "\"rss_after_bytes\": %lld, \"rss_source\": \"%s\", \"batch\": %lld",
        (long long)after.peak, (long long)before.now, (long long)loaded.now, (long long)after.now,
        after.source, (long long)rows);
}

void job_count(const struct json *job) {
    int runs = json_int(job, "runs", 8, 1, 1000);
    struct model *model = job_model(job);
    int64_t rows = job_rows(job, model);
    float *inputs = one_batch(job, model, rows);
    model->bind(model, rows);
    memcpy(model->input, inputs, (size_t)(rows * model->features) * sizeof(float));
    for (int i = 1; i <= runs; i++) {
        mark(i);
        model->run(model);
    }
    mark(runs + 1);
    out(", \"version\": \"%s\", \"runs\": %d, \"batch\": %lld", model->version, runs,
        (long long)rows);
}
