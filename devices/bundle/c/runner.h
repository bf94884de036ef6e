/* The compiled runner: the jobs of runtimes/runner without Python.
 *
 * Reads one job (JSON) from standard input, does it, and prints one result (JSON) as the last line
 * of standard output. The runtimes are loaded with dlopen from the folder that the program loader
 * was given; no header of theirs is needed to build this.
 */
#ifndef SEPDEPLOY_RUNNER_H
#define SEPDEPLOY_RUNNER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MAX_RANK 8
#define RUNNER_VERSION "1"

/* ---- failures: print a result with "ok": false and end the process ---- */
enum kind { BAD_INPUT = 2, MISSING = 4, INTERNAL = 70 };
_Noreturn void fail(enum kind kind, const char *format, ...) __attribute__((format(printf, 2, 3)));
_Noreturn void fail_hint(enum kind kind, const char *hint, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
void *need(void *memory); /* fails when memory is NULL */

/* ---- json.c ---- */
struct json {
    enum { J_NULL, J_BOOL, J_NUMBER, J_STRING, J_ARRAY, J_OBJECT } type;
    double number;       /* also 0/1 of a boolean */
    char *text;          /* of a string */
    char *key;           /* when inside an object */
    struct json *first;  /* of an array or object */
    struct json *next;
};
struct json *json_parse(const char *text); /* NULL when it is not JSON */
const struct json *json_get(const struct json *object, const char *key);
const char *json_text(const struct json *object, const char *key, const char *otherwise);
double json_number(const struct json *object, const char *key, double otherwise);
int json_int(const struct json *object, const char *key, int otherwise, int least, int most);
size_t json_length(const struct json *list);

/* ---- output.c: the result, printed as it grows ---- */
void out(const char *format, ...) __attribute__((format(printf, 1, 2)));
void out_text(const char *text);     /* a quoted JSON string */
void out_number(double value);       /* shortest text that reads back as the same number */
void out_flush(void);

/* ---- npy.c: float32 arrays, C order ---- */
struct array {
    float *data;
    int rank;
    int64_t shape[MAX_RANK];
};
struct array npy_read(const char *path);
void npy_write(const char *path, const struct array *array);
int64_t array_size(const struct array *array);

/* ---- process.c ---- */
int64_t now_ns(void);
struct resident {
    int64_t peak, now; /* bytes */
    const char *source;
};
/* Inside an emulator the kernel's numbers contain the emulator; then only the guest's own
 * mappings are counted and the peak is that of samples taken by a second thread. */
void resident_watch(bool emulated);
struct resident resident_bytes(void);
void limit_memory(int64_t bytes);
void mark(int tag); /* a system call that the counting plugin recognises */

/* ---- models ---- */
struct model {
    const char *path;
    const char *version;
    int rank;                 /* of one sample, in the caller's layout */
    int64_t sample[MAX_RANK]; /* NCHW without N, or features */
    int64_t features;         /* product of sample */
    int64_t fixed;            /* batch size that the file insists on, 0 = any */
    int64_t rows;             /* batch size that is bound now, 0 = none */
    int64_t classes;          /* values a row of the result, known once bound */
    int out_rank;
    int64_t out_shape[MAX_RANK];
    float *input;             /* rows * features, caller's layout */
    float *output;            /* rows * classes */
    void (*bind)(struct model *, int64_t rows);
    void (*run)(struct model *);
    void *own;
};
struct model *ort_open(const char *path, int threads, bool optimize);
struct model *litert_open(const char *path, int threads);
struct model *model_open(const char *runtime, const char *path, int threads, bool optimize);
void runtime_load(const char *runtime); /* the library alone */

/* ---- jobs ---- */
extern const char *program_folder; /* where this program lies */
void job_run(const struct json *job);
void job_latency(const struct json *job);
void job_memory(const struct json *job);
void job_count(const struct json *job);
struct model *job_model(const struct json *job);
void model_run(struct model *model, const float *batch, int64_t rows);
void random_inputs(float *target, int64_t count, uint64_t seed);

#endif
