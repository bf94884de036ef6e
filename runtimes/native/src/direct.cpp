// The layers as plain C functions, for the self-test.
#include <exception>

#include "layer.h"
#include "library.h"

using sepdeploy::Layer;

extern "C" {

// Null where the shape is nonsense or memory runs out.
SEPDEPLOY_EXPORT void *sepdeploy_native_kron(long modes, const long *in, const long *out,
                                             long terms, const float *const *factors,
                                             const float *bias) {
    try {
        sepdeploy::KronShape shape;
        shape.in.assign(in, in + modes);
        shape.out.assign(out, out + modes);
        shape.terms = terms;
        return sepdeploy::make_kron(shape, {factors, factors + modes}, bias).release();
    } catch (const std::exception &) {
        return nullptr;
    }
}

SEPDEPLOY_EXPORT void *sepdeploy_native_lowrank(long inputs, long outputs, long rank,
                                                const float *u, const float *v,
                                                const float *bias) {
    try {
        return sepdeploy::make_lowrank(inputs, outputs, rank, u, v, bias).release();
    } catch (const std::exception &) {
        return nullptr;
    }
}

// 0 if the layer ran.
SEPDEPLOY_EXPORT int sepdeploy_native_run(const void *layer, const float *x, float *y,
                                          long samples) {
    try {
        static_cast<const Layer *>(layer)->run(x, y, samples);
        return 0;
    } catch (const std::exception &) {
        return 1;
    }
}

SEPDEPLOY_EXPORT void sepdeploy_native_free(void *layer) { delete static_cast<Layer *>(layer); }
}
