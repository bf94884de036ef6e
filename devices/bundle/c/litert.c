/* TFLite files through LiteRT's C library. Its types are handles; the two records that cross the
 * border by value are declared here as they are laid out in memory. */
#include "runner.h"

#include <dlfcn.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CPU 1
#define ALIGNMENT 64
#define FLOAT32 1
#define UINT8 3
#define INT16 7
#define INT8 9
#define RANKED 0
#define PER_TENSOR 1
#define SET_ACCELERATORS 24 /* which ones to look for: else libraries for GPUs are searched */
#define SET_LOG_SEVERITY 25
#define ERRORS_ONLY 3
#define INTEGER 2

typedef struct {
    unsigned int rank : 7;
    unsigned int has_strides : 1;
    int32_t dimensions[MAX_RANK];
    uint32_t strides[MAX_RANK];
} layout;

typedef struct {
    int32_t element;
    layout shape;
} tensor_type;

typedef struct {
    float scale;
    int64_t zero;
} affine;

typedef struct { /* of the environment: a tag and an integer */
    int32_t tag;
    int32_t padding;
    int32_t type;
    int64_t number;
} setting;

typedef void *handle;
typedef int status;

/* name, result, arguments */
#define FUNCTIONS(F)                                                                       \
    F(CreateEnvironment, status, (int, const void *, handle *))                            \
    F(CreateModelFromFile, status, (handle, const char *, handle *))                       \
    F(CreateOptions, status, (handle *))                                                   \
    F(SetOptionsHardwareAccelerators, status, (handle, int))                               \
    F(CreateOpaqueOptions, status, (const char *, void *, void (*)(void *), handle *))     \
    F(AddOpaqueOptions, status, (handle, handle))                                          \
    F(CreateCompiledModel, status, (handle, handle, handle, handle *))                     \
    F(GetModelSignature, status, (handle, size_t, handle *))                               \
    F(GetNumSignatureInputs, status, (handle, size_t *))                                   \
    F(GetNumSignatureOutputs, status, (handle, size_t *))                                  \
    F(GetSignatureInputTensorByIndex, status, (handle, size_t, handle *))                  \
    F(GetSignatureOutputTensorByIndex, status, (handle, size_t, handle *))                 \
    F(GetSignatureOutputName, status, (handle, size_t, const char **))                     \
    F(GetTensorTypeId, status, (handle, int *))                                            \
    F(GetRankedTensorType, status, (handle, tensor_type *))                                \
    F(GetQuantizationTypeId, status, (handle, int *))                                      \
    F(GetPerTensorQuantization, status, (handle, affine *))                                \
    F(CompiledModelResizeInputTensor, status, (handle, size_t, size_t, const int *, size_t)) \
    F(GetCompiledModelOutputTensorLayouts, status, (handle, size_t, size_t, layout *, bool)) \
    F(CreateTensorBufferFromHostMemory, status,                                            \
      (const tensor_type *, void *, size_t, void (*)(void *), handle *))                   \
    F(DestroyTensorBuffer, void, (handle))                                                 \
    F(RunCompiledModel, status, (handle, size_t, size_t, handle *, size_t, handle *))

#define DECLARE(name, result, arguments) static result(*name) arguments;
FUNCTIONS(DECLARE)

#define MAX_OUTPUTS 8

struct litert {
    handle compiled, signature;
    tensor_type in_type, out_types[MAX_OUTPUTS];
    affine in_scale, out_scale;
    size_t outputs, chosen;
    bool images; /* the file's own layout is NHWC */
    void *source, *results[MAX_OUTPUTS];
    handle in_buffer, out_buffers[MAX_OUTPUTS];
};

static char version[64];

static void check(const char *path, const char *doing, status code) {
    if (code)
        fail(BAD_INPUT, "%s: %s (LiteRT status %d)", path, doing, code);
}

void runtime_load_litert(void);
void runtime_load_litert(void) {
    if (CreateEnvironment)
        return;
    void *library = dlopen("libLiteRt.so", RTLD_NOW | RTLD_LOCAL);
    if (!library)
        fail_hint(MISSING, "build the bundle again", "LiteRT is not in the bundle: %s", dlerror());
#define RESOLVE(name, result, arguments)                                                 \
    {                                                                                    \
        void *symbol = dlsym(library, "LiteRt" #name);                                   \
        if (!symbol)                                                                     \
            fail(MISSING, "this LiteRT has no function LiteRt" #name);                   \
        memcpy(&name, &symbol, sizeof symbol);                                           \
    }
    FUNCTIONS(RESOLVE)
    /* The library does not tell its version; the bundle does. */
    char path[4096];
    snprintf(path, sizeof path, "%s/litert.version", program_folder);
    FILE *file = fopen(path, "r");
    if (!file || fscanf(file, "%63[0-9A-Za-z.+-]", version) != 1)
        strcpy(version, "unknown");
    if (file)
        fclose(file);
}

static size_t bytes_of(const tensor_type *type) {
    size_t bytes = type->element == FLOAT32 ? 4 : type->element == INT16 ? 2 : 1;
    for (unsigned i = 0; i < type->shape.rank; i++)
        bytes *= (size_t)type->shape.dimensions[i];
    return bytes;
}

static handle buffer(const char *path, const tensor_type *type, void **memory) {
    handle made = NULL;
    size_t bytes = (bytes_of(type) + 2 * ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    *memory = need(aligned_alloc(ALIGNMENT, bytes));
    memset(*memory, 0, bytes);
    check(path, "memory cannot be bound",
          CreateTensorBufferFromHostMemory(type, *memory, bytes_of(type), NULL, &made));
    return made;
}

/* Caller's float32 NCHW or NF into the file's own layout and type. */
static void fill(struct model *model) {
    struct litert *own = model->own;
    int64_t channels = own->images ? model->sample[0] : 1, plane = model->features / channels;
    int64_t total = model->rows * model->features;
    bool whole = own->in_type.element == FLOAT32;
    if (whole && channels == 1) {
        memcpy(own->source, model->input, (size_t)total * sizeof(float));
        return;
    }
    double least = own->in_type.element == UINT8 ? 0 : own->in_type.element == INT8 ? -128 : -32768;
    double most = own->in_type.element == UINT8 ? 255 : own->in_type.element == INT8 ? 127 : 32767;
    for (int64_t i = 0; i < total; i++) {
        int64_t image = i / model->features, rest = i % model->features;
        int64_t target = image * model->features + rest % plane * channels + rest / plane;
        if (whole) {
            ((float *)own->source)[target] = model->input[i];
            continue;
        }
        double value = rint(model->input[i] / own->in_scale.scale) + (double)own->in_scale.zero;
        value = value < least ? least : value > most ? most : value;
        if (own->in_type.element == UINT8)
            ((uint8_t *)own->source)[target] = (uint8_t)value;
        else if (own->in_type.element == INT8)
            ((int8_t *)own->source)[target] = (int8_t)value;
        else
            ((int16_t *)own->source)[target] = (int16_t)value;
    }
}

static void fetch(struct model *model) {
    struct litert *own = model->own;
    const void *from = own->results[own->chosen];
    int element = own->out_types[own->chosen].element;
    int64_t total = model->rows * model->classes;
    if (element == FLOAT32) {
        memcpy(model->output, from, (size_t)total * sizeof(float));
        return;
    }
    for (int64_t i = 0; i < total; i++) {
        float value = element == UINT8  ? ((const uint8_t *)from)[i]
                      : element == INT8 ? ((const int8_t *)from)[i]
                                        : ((const int16_t *)from)[i];
        model->output[i] = (value - (float)own->out_scale.zero) * own->out_scale.scale;
    }
}

static void run(struct model *model) {
    struct litert *own = model->own;
    fill(model);
    check(model->path, "fails when run",
          RunCompiledModel(own->compiled, 0, 1, &own->in_buffer, own->outputs, own->out_buffers));
    fetch(model);
}

static void release(struct model *model) {
    struct litert *own = model->own;
    if (!model->rows)
        return;
    DestroyTensorBuffer(own->in_buffer);
    free(own->source);
    for (size_t i = 0; i < own->outputs; i++) {
        DestroyTensorBuffer(own->out_buffers[i]);
        free(own->results[i]);
    }
    free(model->input);
    free(model->output);
    model->rows = 0;
}

static void bind(struct model *model, int64_t rows) {
    struct litert *own = model->own;
    layout layouts[MAX_OUTPUTS] = {0};
    int dims[MAX_RANK];
    release(model);
    own->in_type.shape.dimensions[0] = (int32_t)rows;
    for (unsigned i = 0; i < own->in_type.shape.rank; i++)
        dims[i] = own->in_type.shape.dimensions[i];
    if (!model->fixed)
        check(model->path, "cannot be laid out for this batch size",
              CompiledModelResizeInputTensor(own->compiled, 0, 0, dims, own->in_type.shape.rank));
    check(model->path, "its output has no shape",
          GetCompiledModelOutputTensorLayouts(own->compiled, 0, own->outputs, layouts, true));
    own->in_buffer = buffer(model->path, &own->in_type, &own->source);
    for (size_t i = 0; i < own->outputs; i++) {
        own->out_types[i].shape = layouts[i];
        own->out_buffers[i] = buffer(model->path, &own->out_types[i], &own->results[i]);
    }
    const layout *shape = &own->out_types[own->chosen].shape;
    if (shape->rank < 1 || shape->dimensions[0] != rows)
        fail(BAD_INPUT, "%s: expected %lld rows of logits", model->path, (long long)rows);
    model->classes = 1;
    model->out_rank = (int)shape->rank;
    for (unsigned i = 0; i < shape->rank; i++) {
        model->out_shape[i] = shape->dimensions[i];
        if (i)
            model->classes *= shape->dimensions[i];
    }
    model->rows = rows;
    model->input = need(calloc((size_t)(rows * model->features) + 1, sizeof(float)));
    model->output = need(calloc((size_t)(rows * model->classes) + 1, sizeof(float)));
    run(model);
}

static affine scale_of(const char *path, handle tensor, int element) {
    affine scale = {1, 0};
    int kind = 0;
    if (element == FLOAT32)
        return scale;
    check(path, "quantisation", GetQuantizationTypeId(tensor, &kind));
    if ((element != INT8 && element != UINT8 && element != INT16) || kind != PER_TENSOR ||
        GetPerTensorQuantization(tensor, &scale) || !(scale.scale > 0))
        fail(BAD_INPUT, "%s: expected float32 or quantised int8/uint8/int16 input and output", path);
    return scale;
}

static void describe(struct model *model) {
    struct litert *own = model->own;
    size_t inputs = 0;
    handle tensor = NULL;
    const char *name = "";
    GetNumSignatureInputs(own->signature, &inputs);
    GetNumSignatureOutputs(own->signature, &own->outputs);
    if (inputs != 1 || own->outputs < 1 || own->outputs > MAX_OUTPUTS)
        fail(BAD_INPUT, "%s: expected one input and at least one output, found %zu and %zu",
             model->path, inputs, own->outputs);
    check(model->path, "input", GetSignatureInputTensorByIndex(own->signature, 0, &tensor));
    int kind = 1;
    GetTensorTypeId(tensor, &kind);
    if (kind != RANKED || GetRankedTensorType(tensor, &own->in_type) || own->in_type.shape.rank < 2)
        fail(BAD_INPUT, "%s: expected an input (N, ...) of known size", model->path);
    own->in_scale = scale_of(model->path, tensor, own->in_type.element);
    const int32_t *dims = own->in_type.shape.dimensions;
    own->images = own->in_type.shape.rank == 4;
    model->rank = (int)own->in_type.shape.rank - 1;
    model->features = 1;
    for (int i = 0; i < model->rank; i++) {
        int from = own->images ? (i == 0 ? 3 : i) : i + 1; /* NHWC to CHW */
        if (dims[from] < 1 || dims[from] > 1 << 26 || model->features > 1 << 26)
            fail(BAD_INPUT, "%s: expected an input (N, ...) of known size", model->path);
        model->sample[i] = dims[from];
        model->features *= dims[from];
    }
    model->fixed = dims[0] > 0 ? dims[0] : 0;
    for (size_t i = 0; i < own->outputs; i++) {
        check(model->path, "output", GetSignatureOutputTensorByIndex(own->signature, i, &tensor));
        GetRankedTensorType(tensor, &own->out_types[i]);
        GetSignatureOutputName(own->signature, i, &name);
        if (i == 0 || !strcmp(name, "logits")) {
            own->chosen = i;
            own->out_scale = scale_of(model->path, tensor, own->out_types[i].element);
        }
    }
}

struct model *litert_open(const char *path, int threads) {
    static handle environment;
    static const setting quiet[] = {{SET_ACCELERATORS, 0, INTEGER, CPU},
                                    {SET_LOG_SEVERITY, 0, INTEGER, ERRORS_ONLY}};
    handle file = NULL, options = NULL, cpu = NULL;
    struct model *model = need(calloc(1, sizeof *model));
    struct litert *own = model->own = need(calloc(1, sizeof *own));
    char *settings = need(malloc(64));
    runtime_load_litert();
    model->path = path;
    model->version = version;
    model->bind = bind;
    model->run = run;
    if (!environment)
        check(path, "environment", CreateEnvironment(2, quiet, &environment));
    check(path, "cannot be loaded", CreateModelFromFile(environment, path, &file));
    check(path, "has no entry point", GetModelSignature(file, 0, &own->signature));
    check(path, "options", CreateOptions(&options));
    check(path, "options", SetOptionsHardwareAccelerators(options, CPU));
    snprintf(settings, 64, "num_threads = %d\n", threads);
    check(path, "options", CreateOpaqueOptions("xnnpack", settings, free, &cpu));
    check(path, "options", AddOpaqueOptions(options, cpu));
    check(path, "cannot be compiled", CreateCompiledModel(environment, file, options, &own->compiled));
    describe(model);
    return model;
}
