// The ops of ai.sepdeploy as custom ops of ONNX Runtime.
//
// Its C interface is a table of function pointers that only ever grows at the end, so the place of
// each function is all that is needed, and no header. Version 17 of the table is asked for, which
// ONNX Runtime 1.17 and everything newer gives.
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <exception>
#include <string>

#include "layer.h"
#include "library.h"

namespace sepdeploy {
namespace {

constexpr uint32_t API_VERSION = 17;
constexpr int INVALID_ARGUMENT = 2, RUNTIME_FAILURE = 6;
constexpr int FLOAT = 1;
constexpr int REQUIRED = 0, VARIADIC = 2;
constexpr int CPU_MEMORY = 0;
constexpr int DOMAIN_VERSION = 1;
constexpr int MOST_MODES = 16;
// Fewer multiplications than this are not worth another thread.
constexpr double PARALLEL_WORK = 4e6;
constexpr int MOST_THREADS = 64;
constexpr std::chrono::microseconds PROBE_TIME(200);

enum Slot : size_t {
    CREATE_STATUS = 0,
    CREATE_DOMAIN = 26,
    DOMAIN_ADD = 27,
    ADD_DOMAIN = 28,
    MUTABLE_DATA = 51,
    RANK = 61,
    DIMENSIONS = 62,
    TENSOR_SHAPE = 65,
    ATTRIBUTE_INT = 86,
    CONTEXT_INPUT = 90,
    CONTEXT_OUTPUT = 91,
    RELEASE_STATUS = 93,
    RELEASE_SHAPE = 99,
    ATTRIBUTE_INTS = 163,
    CONSTANT_INPUT = 249,
    PARALLEL_FOR = 274,
};

struct Base {
    const void *(*get_api)(uint32_t version);
    const char *(*version)();
};

struct Status;  // null means success
struct Value;
struct Shape;
struct Info;
struct Context;
struct Domain;
struct Options;

class Api {
public:
    void use(const void *table) { table_ = static_cast<void *const *>(table); }

    // A status holds its own copy of the text.
    Status *fail(const char *text, int code = INVALID_ARGUMENT) const {
        return call<Status *>(CREATE_STATUS, code, text);
    }
    void release(Status *status) const { call<void>(RELEASE_STATUS, status); }

    Status *dims(const Value *value, std::vector<int64_t> *dims) const {
        Shape *shape = nullptr;
        if (Status *s = call<Status *>(TENSOR_SHAPE, value, &shape)) return s;
        size_t rank = 0;
        Status *s = call<Status *>(RANK, static_cast<const Shape *>(shape), &rank);
        if (!s) {
            dims->resize(rank);
            s = call<Status *>(DIMENSIONS, static_cast<const Shape *>(shape), dims->data(), rank);
        }
        call<void>(RELEASE_SHAPE, shape);
        return s;
    }
    Status *data(const Value *value, float **floats) const {
        void *found = nullptr;
        Status *s = call<Status *>(MUTABLE_DATA, const_cast<Value *>(value), &found);
        *floats = static_cast<float *>(found);
        return s;
    }

    Status *integer(const Info *info, const char *name, int64_t *value) const {
        return call<Status *>(ATTRIBUTE_INT, info, name, value);
    }
    // With null values: the count alone.
    Status *integers(const Info *info, const char *name, int64_t *values, size_t *count) const {
        return call<Status *>(ATTRIBUTE_INTS, info, name, values, count);
    }
    Status *constant(const Info *info, size_t index, int *known, const Value **value) const {
        return call<Status *>(CONSTANT_INPUT, info, index, known, value);
    }

    Status *input(const Context *context, size_t index, const Value **value) const {
        return call<Status *>(CONTEXT_INPUT, context, index, value);
    }
    Status *output(Context *context, size_t index, const std::vector<int64_t> &dims,
                   Value **value) const {
        return call<Status *>(CONTEXT_OUTPUT, context, index, dims.data(), dims.size(), value);
    }
    Status *parallel(const Context *context, void (*run)(void *, size_t), size_t count,
                     void *data) const {
        return call<Status *>(PARALLEL_FOR, context, run, count, size_t{0}, data);
    }

    Status *make_domain(const char *name, Domain **domain) const {
        return call<Status *>(CREATE_DOMAIN, name, domain);
    }
    Status *add(Domain *domain, const void *op) const {
        return call<Status *>(DOMAIN_ADD, domain, op);
    }
    Status *add(Options *options, Domain *domain) const {
        return call<Status *>(ADD_DOMAIN, options, domain);
    }

private:
    template <class Result, class... Arguments>
    Result call(Slot slot, Arguments... arguments) const {
        Result (*function)(Arguments...);
        std::memcpy(&function, &table_[slot], sizeof function);
        return function(arguments...);
    }

    void *const *table_ = nullptr;
};

// The record that describes an op; its fields are fixed, later versions add to the end.
struct Op {
    uint32_t version;
    void *(*create)(const Op *, const void *, const void *);
    const char *(*name)(const Op *);
    const char *(*provider)(const Op *);
    int (*input_type)(const Op *, size_t);
    size_t (*input_count)(const Op *);
    int (*output_type)(const Op *, size_t);
    size_t (*output_count)(const Op *);
    void (*compute)(void *, void *);
    void (*destroy)(void *);
    int (*input_kind)(const Op *, size_t);
    int (*output_kind)(const Op *, size_t);
    int (*input_memory)(const Op *, size_t);
    int (*least_inputs)(const Op *);
    int (*same_inputs)(const Op *);
    int (*least_outputs)(const Op *);
    int (*same_outputs)(const Op *);
    Status *(*create_v2)(const Op *, const void *, const Info *, void **);
    Status *(*compute_v2)(void *, Context *);
    Status *(*infer_shape)(const Op *, void *);
    int (*start_version)(const Op *);
    int (*end_version)(const Op *);
    size_t (*may_in_place)(int **, int **);
    void (*release_in_place)(int *, int *);
    size_t (*aliases)(int **, int **);
    void (*release_aliases)(int *, int *);
    // Not ONNX Runtime's:
    const char *own_name;
};

Api api;

struct Kernel {
    std::unique_ptr<Layer> layer;
    std::atomic<int> threads{0};  // of the session, 0 until it matters
};

// A node's constant input.
struct Constant {
    float *data = nullptr;
    std::vector<int64_t> dims;
};

Status *constant(const Info *info, size_t index, Constant *found) {
    int known = 0;
    const Value *value = nullptr;
    if (Status *s = api.constant(info, index, &known, &value)) return s;
    if (!known || !value) return api.fail("ai.sepdeploy: factors and bias must be constants");
    if (Status *s = api.dims(value, &found->dims)) return s;
    return api.data(value, &found->data);
}

Status *integers(const Info *info, const char *name, std::vector<int64_t> *values) {
    size_t count = 0;
    Status *s = api.integers(info, name, nullptr, &count);
    if (s && count == 0) return s;
    if (s) api.release(s);  // some versions complain that nothing was copied
    if (count > MOST_MODES) return api.fail("ai.sepdeploy.KronLinear: too many modes");
    values->resize(count);
    return api.integers(info, name, values->data(), &count);
}

Status *make_kron_layer(const Info *info, std::unique_ptr<Layer> *layer) {
    std::vector<int64_t> in, out;
    int64_t terms = 0;
    if (Status *s = integers(info, "in_shape", &in)) return s;
    if (Status *s = integers(info, "out_shape", &out)) return s;
    if (Status *s = api.integer(info, "terms", &terms)) return s;
    if (in.empty() || in.size() != out.size())
        return api.fail("ai.sepdeploy.KronLinear: in_shape and out_shape differ in length");
    KronShape shape;
    shape.terms = static_cast<long>(terms);
    std::vector<const float *> factors;
    int64_t outputs = 1;
    for (size_t m = 0; m < in.size(); ++m) {
        Constant factor;
        if (Status *s = constant(info, m + 1, &factor)) return s;
        if (factor.dims != std::vector<int64_t>{terms, out[m], in[m]})
            return api.fail("ai.sepdeploy.KronLinear: a factor does not fit the attributes");
        shape.in.push_back(static_cast<long>(in[m]));
        shape.out.push_back(static_cast<long>(out[m]));
        factors.push_back(factor.data);
        outputs *= out[m];
    }
    Constant bias;
    if (Status *s = constant(info, in.size() + 1, &bias)) return s;
    if (bias.dims != std::vector<int64_t>{outputs})
        return api.fail("ai.sepdeploy.KronLinear: the bias has another size than the output");
    *layer = make_kron(shape, factors, bias.data);
    return nullptr;
}

Status *make_lowrank_layer(const Info *info, std::unique_ptr<Layer> *layer) {
    Constant u, v, bias;
    if (Status *s = constant(info, 1, &u)) return s;
    if (Status *s = constant(info, 2, &v)) return s;
    if (Status *s = constant(info, 3, &bias)) return s;
    if (u.dims.size() != 2 || v.dims.size() != 2 || u.dims[1] != v.dims[1] ||
        bias.dims != std::vector<int64_t>{v.dims[0]})
        return api.fail("ai.sepdeploy.LowRankLinear: U, V and bias do not fit together");
    *layer = make_lowrank(static_cast<long>(u.dims[0]), static_cast<long>(v.dims[0]),
                          static_cast<long>(u.dims[1]), u.data, v.data, bias.data);
    return nullptr;
}

using Maker = Status *(const Info *, std::unique_ptr<Layer> *);

template <Maker make>
Status *create(const Op *, const void *, const Info *info, void **kernel) {
    try {
        auto made = std::make_unique<Kernel>();
        if (Status *s = make(info, &made->layer)) return s;
        if (!made->layer) return api.fail("ai.sepdeploy: a layer of impossible size");
        *kernel = made.release();
        return nullptr;
    } catch (const std::exception &error) {
        return api.fail(error.what(), RUNTIME_FAILURE);
    }
}

// How many threads the session has cannot be asked for. So they are counted once: for a short
// time, every thread that takes a task keeps it.
struct Probe {
    std::atomic<int> threads{0};
    std::chrono::steady_clock::time_point end = std::chrono::steady_clock::now() + PROBE_TIME;
};

void take_probe(void *data, size_t) {
    Probe &probe = *static_cast<Probe *>(data);
    if (std::chrono::steady_clock::now() >= probe.end) return;
    ++probe.threads;
    while (std::chrono::steady_clock::now() < probe.end) {
    }
}

Status *count_threads(Kernel *kernel, const Context *context) {
    Probe probe;
    if (Status *s = api.parallel(context, take_probe, MOST_THREADS, &probe)) return s;
    kernel->threads = std::max(1, probe.threads.load());
    return nullptr;
}

// Some of the samples of one call.
struct Work {
    const Layer *layer;
    const float *x;
    float *y;
    long samples, block;
    std::atomic<bool> failed{false};
};

void run_block(void *data, size_t index) {
    Work &w = *static_cast<Work *>(data);
    const long start = static_cast<long>(index) * w.block;
    const long count = std::min(w.block, w.samples - start);
    try {
        w.layer->run(w.x + start * w.layer->inputs(), w.y + start * w.layer->outputs(), count);
    } catch (const std::exception &) {  // must not leave through the runtime's threads
        w.failed = true;
    }
}

Status *run(Kernel *kernel, const Context *context, const float *x, float *y, long samples) {
    const Layer &layer = *kernel->layer;
    Work w = {&layer, x, y, samples, samples};
    const double pieces = layer.work() * static_cast<double>(samples) / PARALLEL_WORK;
    if (samples > 1 && pieces >= 2) {
        if (!kernel->threads)
            if (Status *s = count_threads(kernel, context)) return s;
        const long most = std::min({static_cast<long>(kernel->threads), samples,
                                    static_cast<long>(pieces)});
        w.block = (samples + most - 1) / most;
    }
    if (w.block == samples) {
        run_block(&w, 0);
    } else {
        const auto blocks = static_cast<size_t>((samples + w.block - 1) / w.block);
        if (Status *s = api.parallel(context, run_block, blocks, &w)) return s;
    }
    return w.failed ? api.fail("ai.sepdeploy: out of memory", RUNTIME_FAILURE) : nullptr;
}

Status *compute(void *data, Context *context) {
    Kernel *kernel = static_cast<Kernel *>(data);
    const Layer &layer = *kernel->layer;
    const Value *x = nullptr;
    if (Status *s = api.input(context, 0, &x)) return s;
    std::vector<int64_t> dims;
    if (Status *s = api.dims(x, &dims)) return s;
    if (dims.size() != 2 || dims[1] != layer.inputs())
        return api.fail("ai.sepdeploy: x has another number of features than the layer");
    dims[1] = layer.outputs();
    Value *y = nullptr;
    if (Status *s = api.output(context, 0, dims, &y)) return s;
    float *from = nullptr, *to = nullptr;
    if (Status *s = api.data(x, &from)) return s;
    if (Status *s = api.data(y, &to)) return s;
    calls.fetch_add(1, std::memory_order_relaxed);
    return dims[0] > 0 ? run(kernel, context, from, to, static_cast<long>(dims[0])) : nullptr;
}

template <Maker make>
Op describe(const char *name) {
    Op op = {};
    op.version = API_VERSION;
    op.own_name = name;
    op.name = [](const Op *self) { return self->own_name; };
    op.provider = [](const Op *) -> const char * { return nullptr; };
    op.input_type = [](const Op *, size_t) { return FLOAT; };
    op.input_count = [](const Op *) { return size_t{1}; };
    op.output_type = [](const Op *, size_t) { return FLOAT; };
    op.output_count = [](const Op *) { return size_t{1}; };
    op.destroy = [](void *kernel) { delete static_cast<Kernel *>(kernel); };
    op.input_kind = [](const Op *, size_t) { return VARIADIC; };
    op.output_kind = [](const Op *, size_t) { return REQUIRED; };
    op.input_memory = [](const Op *, size_t) { return CPU_MEMORY; };
    op.least_inputs = [](const Op *) { return 4; };
    op.same_inputs = [](const Op *) { return 1; };
    op.least_outputs = [](const Op *) { return 1; };
    op.same_outputs = [](const Op *) { return 1; };
    op.create_v2 = create<make>;
    op.compute_v2 = compute;
    op.start_version = [](const Op *) { return DOMAIN_VERSION; };
    op.end_version = [](const Op *) { return DOMAIN_VERSION; };
    return op;
}

const Op kron = describe<make_kron_layer>("KronLinear");
const Op lowrank = describe<make_lowrank_layer>("LowRankLinear");

}  // namespace
}  // namespace sepdeploy

// ONNX Runtime calls this for every session that the library is registered for. Where the version
// is not to be had nothing is registered, and the function bodies in the file run instead.
extern "C" SEPDEPLOY_EXPORT void *RegisterCustomOps(void *options, const void *base) {
    using namespace sepdeploy;
    const void *table = static_cast<const Base *>(base)->get_api(API_VERSION);
    if (!table) return nullptr;
    api.use(table);
    // Sessions refer to the domain; it lives as long as the library.
    static Domain *domain = nullptr;
    if (!domain) {
        Domain *made = nullptr;
        if (Status *s = api.make_domain("ai.sepdeploy", &made)) return s;
        if (Status *s = api.add(made, &kron)) return s;
        if (Status *s = api.add(made, &lowrank)) return s;
        domain = made;
    }
    return api.add(static_cast<Options *>(options), domain);
}
