// The ops of ai.sepdeploy as a plug-in delegate of LiteRT and tflite-runtime: it claims the CUSTOM
// operators named KronLinear and LowRankLinear whose weights are float32 constants.
//
// The records below are those parts of TensorFlow Lite's C interface that are used, as they lie in
// memory; both runtimes append to them and never change what is there. The self-test runs before
// any model is trusted to them.
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <exception>

#include "layer.h"
#include "library.h"

namespace sepdeploy {
namespace {

constexpr int OK = 0, ERROR = 1;
constexpr int FLOAT32 = 1;
constexpr int READ_ONLY = 1;  // memory mapped from the file: a constant
constexpr int32_t CUSTOM = 32;
// Without it the runtime prepares the operators before the delegate has seen them, and fails.
constexpr int64_t ALLOW_DYNAMIC_TENSORS = 1;

struct Ints {
    int size;
    int data[1];  // as many as size says
};

struct Tensor {
    int type;
    float *data;
    Ints *dims;
    float scale;
    int32_t zero_point;
    int allocation;
    size_t bytes;
    const void *source;
    const char *name;
    void *delegate;
    int buffer_handle;
    bool data_is_stale, is_variable;
    int quantization_type;
    void *quantization;
    void *sparsity;
    const Ints *signature;
};

struct Node {
    Ints *inputs, *outputs, *intermediates, *temporaries;
    void *user_data, *builtin_data;
    const void *options;
    int options_size;
};

struct Context;
struct Delegate;

// Passed by value: as large as the newest runtime's, zeros where an older one has less.
struct Registration {
    void *(*init)(Context *, const char *, size_t);
    void (*free)(Context *, void *);
    int (*prepare)(Context *, Node *);
    int (*invoke)(Context *, Node *);
    const char *(*profile)(const Context *, const Node *);
    int32_t builtin_code;
    const char *name;
    int version;
    void *external, *async;
    uint64_t in_place;
    void *later[4];
};

struct Context {
    size_t tensors_size;
    int (*plan)(Context *, Ints **);
    Tensor *tensors;
    void *implementation;
    int (*resize)(Context *, Tensor *, Ints *);
    void (*report)(Context *, const char *, ...);
    int (*add_tensors)(Context *, int, int *);
    int (*node)(Context *, int, Node **, Registration **);
    int (*replace)(Context *, Registration, const Ints *, Delegate *);
};

struct Delegate {
    void *data;
    int (*prepare)(Context *, Delegate *);
    void *copy_from, *copy_to, *free_handle;
    int64_t flags;
    void *builder;
    void *later[4];
};

struct Parameters {  // of a delegate's kernel
    Delegate *delegate;
    Ints *nodes, *inputs, *outputs;
};

const Tensor *weight(const Context *context, int index, int rank) {
    if (index < 0 || static_cast<size_t>(index) >= context->tensors_size) return nullptr;
    const Tensor &t = context->tensors[index];
    const bool fits = t.type == FLOAT32 && t.allocation == READ_ONLY && t.data && t.dims &&
                      t.dims->size == rank;
    if (!fits) return nullptr;
    size_t bytes = sizeof(float);
    for (int i = 0; i < rank; ++i) {
        if (t.dims->data[i] < 1) return nullptr;
        bytes *= static_cast<size_t>(t.dims->data[i]);
    }
    return bytes == t.bytes ? &t : nullptr;
}

std::unique_ptr<Layer> kron_layer(const Context *context, const Ints &inputs) {
    const int modes = inputs.size - 2;
    KronShape shape;
    std::vector<const float *> factors;
    long outputs = 1;
    for (int m = 0; m < modes; ++m) {
        const Tensor *factor = weight(context, inputs.data[m + 1], 3);
        if (!factor || (m && factor->dims->data[0] != shape.terms)) return nullptr;
        shape.terms = factor->dims->data[0];
        shape.out.push_back(factor->dims->data[1]);
        shape.in.push_back(factor->dims->data[2]);
        outputs *= factor->dims->data[1];
        factors.push_back(factor->data);
    }
    const Tensor *bias = weight(context, inputs.data[modes + 1], 1);
    if (modes < 1 || !bias || bias->dims->data[0] != outputs) return nullptr;
    return make_kron(shape, factors, bias->data);
}

std::unique_ptr<Layer> lowrank_layer(const Context *context, const Ints &inputs) {
    const Tensor *u = weight(context, inputs.data[1], 2), *v = weight(context, inputs.data[2], 2);
    const Tensor *bias = weight(context, inputs.data[3], 1);
    if (!u || !v || !bias || u->dims->data[1] != v->dims->data[1] ||
        v->dims->data[0] != bias->dims->data[0])
        return nullptr;
    return make_lowrank(u->dims->data[0], v->dims->data[0], u->dims->data[1], u->data, v->data,
                        bias->data);
}

// The layer of an operator, null where it is not ours or not as it should be.
std::unique_ptr<Layer> layer_of(const Context *context, const Node *node, const char *name) {
    if (!name || !node->inputs || !node->outputs || node->outputs->size != 1) return nullptr;
    const Ints &inputs = *node->inputs;
    if (inputs.size < 4 || inputs.data[0] < 0) return nullptr;
    const Tensor &x = context->tensors[inputs.data[0]];
    const Tensor &y = context->tensors[node->outputs->data[0]];
    if (x.type != FLOAT32 || y.type != FLOAT32) return nullptr;
    try {
        if (!std::strcmp(name, "KronLinear")) return kron_layer(context, inputs);
        if (!std::strcmp(name, "LowRankLinear") && inputs.size == 4)
            return lowrank_layer(context, inputs);
    } catch (const std::exception &) {  // must not leave through the runtime's C interface
    }
    return nullptr;
}

struct Kernel {
    std::unique_ptr<Layer> layer;
    int from, to;
};

// Rows of a tensor whose last dimension is `width`, -1 where it is another.
long rows_of(const Tensor &t, long width) {
    if (!t.dims || t.dims->size < 1 || t.dims->data[t.dims->size - 1] != width) return -1;
    long rows = 1;
    for (int i = 0; i + 1 < t.dims->size; ++i) rows *= t.dims->data[i];
    return rows;
}

void *init(Context *context, const char *data, size_t) {
    const Parameters *parameters = reinterpret_cast<const Parameters *>(data);
    Node *node = nullptr;
    Registration *op = nullptr;
    if (context->node(context, parameters->nodes->data[0], &node, &op) != OK) return nullptr;
    std::unique_ptr<Layer> layer = layer_of(context, node, op->name);
    if (!layer) return nullptr;
    return new (std::nothrow)
        Kernel{std::move(layer), node->inputs->data[0], node->outputs->data[0]};
}

void free_kernel(Context *, void *kernel) { delete static_cast<Kernel *>(kernel); }

int prepare(Context *context, Node *node) {
    const Kernel *kernel = static_cast<const Kernel *>(node->user_data);
    if (!kernel) return ERROR;
    const Tensor &x = context->tensors[kernel->from];
    if (rows_of(x, kernel->layer->inputs()) < 0) return ERROR;
    const size_t size = sizeof(int) * (1 + static_cast<size_t>(x.dims->size));
    Ints *dims = static_cast<Ints *>(std::malloc(size));  // the runtime frees it
    if (!dims) return ERROR;
    std::memcpy(dims, x.dims, size);
    dims->data[dims->size - 1] = static_cast<int>(kernel->layer->outputs());
    return context->resize(context, &context->tensors[kernel->to], dims);
}

int invoke(Context *context, Node *node) {
    const Kernel *kernel = static_cast<const Kernel *>(node->user_data);
    const Tensor &x = context->tensors[kernel->from], &y = context->tensors[kernel->to];
    const long rows = rows_of(x, kernel->layer->inputs());
    if (rows < 0 || !x.data || !y.data || rows_of(y, kernel->layer->outputs()) != rows)
        return ERROR;
    try {
        calls.fetch_add(1, std::memory_order_relaxed);
        if (rows > 0) kernel->layer->run(x.data, y.data, rows);
        return OK;
    } catch (const std::exception &) {
        return ERROR;
    }
}

int claim(Context *context, Delegate *delegate) {
    Ints *plan = nullptr;
    if (context->plan(context, &plan) != OK) return ERROR;
    // Claiming changes the plan that is walked over.
    const std::vector<int> indices(plan->data, plan->data + plan->size);
    for (const int index : indices) {
        Node *node = nullptr;
        Registration *op = nullptr;
        if (context->node(context, index, &node, &op) != OK) return ERROR;
        if (op->builtin_code != CUSTOM || !layer_of(context, node, op->name)) continue;
        Registration kernel = {};
        kernel.init = init;
        kernel.free = free_kernel;
        kernel.prepare = prepare;
        kernel.invoke = invoke;
        kernel.name = "sepdeploy";
        kernel.version = 1;
        const Ints one = {1, {index}};
        if (context->replace(context, kernel, &one, delegate) != OK) return ERROR;
    }
    return OK;
}

}  // namespace
}  // namespace sepdeploy

extern "C" {

SEPDEPLOY_EXPORT void *tflite_plugin_create_delegate(char **, char **, size_t,
                                                     void (*)(const char *)) {
    auto *delegate = new (std::nothrow) sepdeploy::Delegate{};
    if (delegate) {
        delegate->prepare = sepdeploy::claim;
        delegate->flags = sepdeploy::ALLOW_DYNAMIC_TENSORS;
    }
    return delegate;
}

SEPDEPLOY_EXPORT void tflite_plugin_destroy_delegate(void *delegate) {
    delete static_cast<sepdeploy::Delegate *>(delegate);
}
}
