/* ONNX files through ONNX Runtime's C interface.
 *
 * The interface is a table of function pointers whose order never changes: a function added later
 * stands at the end. So the place of each function is all that is needed, and no header. */
#include "runner.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

#define API_VERSION 16 /* answered by ONNX Runtime 1.16 and everything newer */
#define FLOAT 1
#define ALLOW_ALL 99
#define CPU_ARENA 1
#define DEFAULT_MEMORY 0

enum slot {
    GET_ERROR_MESSAGE = 2,
    CREATE_ENV = 3,
    CREATE_SESSION = 7,
    RUN = 9,
    CREATE_SESSION_OPTIONS = 10,
    SET_LOG_SEVERITY = 22,
    SET_OPTIMIZATION = 23,
    SET_INTRA_THREADS = 24,
    SET_INTER_THREADS = 25,
    INPUT_COUNT = 30,
    OUTPUT_COUNT = 31,
    INPUT_TYPE = 33,
    OUTPUT_TYPE = 34,
    INPUT_NAME = 36,
    OUTPUT_NAME = 37,
    TENSOR_WITH_DATA = 49,
    MUTABLE_DATA = 51,
    CAST_TO_TENSOR = 55,
    ELEMENT_TYPE = 60,
    RANK = 61,
    DIMENSIONS = 62,
    TENSOR_SHAPE = 65,
    CPU_MEMORY = 69,
    DEFAULT_ALLOCATOR = 78,
    RELEASE_VALUE = 96,
    ADD_CONFIG = 130,
};

typedef void *(*call1)(void *);
typedef void *(*call2)(void *, void *);
typedef void *(*call3)(void *, void *, void *);
typedef void *(*call4)(void *, size_t, void *, void *);
typedef void *(*call_int)(void *, int);

struct base {
    const void *(*get_api)(uint32_t version);
    const char *(*version)(void);
};

struct ort {
    void *session, *memory;
    char *input_name, *output_name;
    void *source, *result; /* the bound tensors */
};

static void *const *api;
static const char *version;

static void *at(enum slot slot) { return api[slot]; }

static void check(const char *path, const char *doing, void *status) {
    if (status)
        fail(BAD_INPUT, "%s: %s: %.300s", path, doing, ((const char *(*)(void *))at(GET_ERROR_MESSAGE))(status));
}

static void load_library(void) {
    if (api)
        return;
    /* Newer builds report their use to their maker unless told not to before they start. */
    setenv("ORT_DISABLE_TELEMETRY", "1", 1);
    void *library = dlopen("libonnxruntime.so", RTLD_NOW | RTLD_LOCAL);
    if (!library)
        fail_hint(MISSING, "build the bundle again", "ONNX Runtime is not in the bundle: %s", dlerror());
    void *symbol = dlsym(library, "OrtGetApiBase");
    const struct base *(*get_base)(void);
    memcpy(&get_base, &symbol, sizeof symbol);
    if (!symbol || !(api = get_base()->get_api(API_VERSION)))
        fail(MISSING, "ONNX Runtime %s does not offer version %d of its C interface",
             symbol ? get_base()->version() : "?", API_VERSION);
    version = get_base()->version();
}

void runtime_load_ort(void) { load_library(); }

/* Shape and type of one input or output. */
static int describe(struct model *model, enum slot slot, int64_t *shape, int *type) {
    struct ort *own = model->own;
    void *info = NULL, *tensor = NULL;
    size_t rank = 0;
    check(model->path, "type", ((call4)at(slot))(own->session, 0, &info, NULL));
    check(model->path, "type", ((call2)at(CAST_TO_TENSOR))(info, &tensor));
    if (!tensor)
        fail(BAD_INPUT, "%s: its input or output is not a tensor", model->path);
    ((call2)at(ELEMENT_TYPE))(tensor, type);
    ((call2)at(RANK))(tensor, &rank);
    if (rank > MAX_RANK)
        fail(BAD_INPUT, "%s: more than %d dimensions", model->path, MAX_RANK);
    ((void *(*)(void *, int64_t *, size_t))at(DIMENSIONS))(tensor, shape, rank);
    return (int)rank;
}

static char *name_of(struct model *model, enum slot slot, size_t index) {
    struct ort *own = model->own;
    void *allocator = NULL;
    char *name = NULL;
    check(model->path, "allocator", ((call1)at(DEFAULT_ALLOCATOR))(&allocator));
    check(model->path, "name", ((call4)at(slot))(own->session, index, allocator, &name));
    return name;
}

static void *tensor(struct model *model, float *data, int rank, const int64_t *shape) {
    struct ort *own = model->own;
    void *value = NULL;
    size_t bytes = sizeof(float);
    for (int i = 0; i < rank; i++)
        bytes *= (size_t)shape[i];
    check(model->path, "tensor",
          ((void *(*)(void *, void *, size_t, const int64_t *, size_t, int, void **))at(
              TENSOR_WITH_DATA))(own->memory, data, bytes, shape, (size_t)rank, FLOAT, &value));
    return value;
}

static void invoke(struct model *model, void **result) {
    struct ort *own = model->own;
    const char *in[] = {own->input_name}, *outs[] = {own->output_name};
    void *status = ((void *(*)(void *, void *, const char *const *, void *const *, size_t,
                               const char *const *, size_t, void **))at(RUN))(
        own->session, NULL, in, &own->source, 1, outs, 1, result);
    if (status)
        check(model->path, "fails when run", status);
}

static void run(struct model *model) { invoke(model, &((struct ort *)model->own)->result); }

static void bind(struct model *model, int64_t rows) {
    struct ort *own = model->own;
    int64_t shape[MAX_RANK] = {rows}, size = 1;
    void *first = NULL, *info = NULL;
    size_t rank = 0;
    memcpy(shape + 1, model->sample, sizeof(int64_t) * (size_t)model->rank);
    if (own->source)
        ((void (*)(void *))at(RELEASE_VALUE))(own->source);
    if (own->result)
        ((void (*)(void *))at(RELEASE_VALUE))(own->result);
    free(model->input);
    free(model->output);
    model->input = need(aligned_alloc(64, ((size_t)(rows * model->features) * 4 + 127) / 64 * 64));
    memset(model->input, 0, (size_t)(rows * model->features) * 4);
    own->source = tensor(model, model->input, model->rank + 1, shape);
    own->result = NULL;
    invoke(model, &first); /* tells the output's shape, which the file may leave open */
    check(model->path, "output", ((call2)at(TENSOR_SHAPE))(first, &info));
    ((call2)at(RANK))(info, &rank);
    if (rank < 1 || rank > MAX_RANK)
        fail(BAD_INPUT, "%s: expected logits (N, classes)", model->path);
    ((void *(*)(void *, int64_t *, size_t))at(DIMENSIONS))(info, model->out_shape, rank);
    ((void (*)(void *))at(RELEASE_VALUE))(first);
    if (model->out_shape[0] != rows)
        fail(BAD_INPUT, "%s: expected %lld rows of logits, found %lld", model->path,
             (long long)rows, (long long)model->out_shape[0]);
    model->out_rank = (int)rank;
    for (size_t i = 1; i < rank; i++)
        size *= model->out_shape[i];
    model->classes = size;
    model->rows = rows;
    model->output = need(aligned_alloc(64, ((size_t)(rows * size) * 4 + 127) / 64 * 64));
    own->result = tensor(model, model->output, model->out_rank, model->out_shape);
}

static void *open_session(const char *path, int threads, bool optimize) {
    static void *environment;
    void *options = NULL, *session = NULL;
    if (!environment)
        check(path, "environment", ((void *(*)(int, const char *, void **))at(CREATE_ENV))(4, "sepdeploy", &environment));
    check(path, "options", ((call1)at(CREATE_SESSION_OPTIONS))(&options));
    ((call_int)at(SET_LOG_SEVERITY))(options, 4);
    ((call_int)at(SET_OPTIMIZATION))(options, optimize ? ALLOW_ALL : 0);
    ((call_int)at(SET_INTRA_THREADS))(options, threads);
    ((call_int)at(SET_INTER_THREADS))(options, threads);
    /* Without it int8 saturates on x86 cores that lack VNNI and differs from every ARM core. */
    check(path, "options", ((call3)at(ADD_CONFIG))(options, "session.x64quantprecision", "1"));
    check(path, "cannot be loaded", ((void *(*)(void *, const char *, void *, void **))at(CREATE_SESSION))(environment, path, options, &session));
    return session;
}

static void describe_input(struct model *model) {
    int64_t shape[MAX_RANK];
    int in = 0, result = 0;
    int rank = describe(model, INPUT_TYPE, shape, &in);
    int64_t ignored[MAX_RANK];
    describe(model, OUTPUT_TYPE, ignored, &result);
    if (in != FLOAT || result != FLOAT)
        fail(BAD_INPUT, "%s: expected float32 input and output", model->path);
    if (rank < 2)
        fail(BAD_INPUT, "%s: expected an input (N, ...) of known size", model->path);
    model->fixed = shape[0] > 0 ? shape[0] : 0;
    model->rank = rank - 1;
    model->features = 1;
    for (int i = 1; i < rank; i++) {
        if (shape[i] < 1 || shape[i] > 1 << 26 || model->features > 1 << 26)
            fail_hint(BAD_INPUT, "export it again with fixed sizes except for the batch",
                      "%s: expected an input (N, ...) of known size", model->path);
        model->sample[i - 1] = shape[i];
        model->features *= shape[i];
    }
}

struct model *ort_open(const char *path, int threads, bool optimize) {
    load_library();
    struct model *model = need(calloc(1, sizeof *model));
    struct ort *own = model->own = need(calloc(1, sizeof *own));
    size_t inputs = 0, outputs = 0;
    model->path = path;
    model->version = version;
    model->bind = bind;
    model->run = run;
    own->session = open_session(path, threads, optimize);
    ((call2)at(INPUT_COUNT))(own->session, &inputs);
    ((call2)at(OUTPUT_COUNT))(own->session, &outputs);
    if (inputs != 1 || outputs < 1)
        fail(BAD_INPUT, "%s: expected one input and at least one output, found %zu and %zu", path,
             inputs, outputs);
    check(path, "memory", ((void *(*)(int, int, void **))at(CPU_MEMORY))(CPU_ARENA, DEFAULT_MEMORY, &own->memory));
    own->input_name = name_of(model, INPUT_NAME, 0);
    own->output_name = name_of(model, OUTPUT_NAME, 0);
    for (size_t i = 1; i < outputs && strcmp(own->output_name, "logits") != 0; i++) {
        char *name = name_of(model, OUTPUT_NAME, i);
        if (!strcmp(name, "logits"))
            own->output_name = name;
    }
    describe_input(model);
    return model;
}
