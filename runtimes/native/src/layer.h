// Structured layers with packed weights.
#pragma once

#include <memory>
#include <vector>

#include "kernels.h"

namespace sepdeploy {

// Floats at an address that is a multiple of a cache line.
class Buffer {
public:
    Buffer() = default;
    explicit Buffer(size_t count);
    float *data() const { return data_; }
    size_t size() const { return size_; }

private:
    struct Free {
        void operator()(void *p) const;
    };
    std::unique_ptr<void, Free> memory_;
    float *data_ = nullptr;
    size_t size_ = 0;
};

// y = f(x) for rows of x; the weights are packed when a layer is made and not read again.
class Layer {
public:
    virtual ~Layer() = default;
    // x: samples x inputs(), y: samples x outputs(); may be called from several threads at once.
    virtual void run(const float *x, float *y, long samples) const = 0;
    // Multiplications per sample.
    virtual double work() const = 0;
    long inputs() const { return inputs_; }
    long outputs() const { return outputs_; }

protected:
    long inputs_ = 0, outputs_ = 0;
};

struct KronShape {
    std::vector<long> in, out;  // one entry a mode
    long terms = 1;
};

// W = sum over k of F_1k x ... x F_dk; factors[m] is (terms, out[m], in[m]). Null where the shape
// is nonsense or too large.
std::unique_ptr<Layer> make_kron(const KronShape &shape, const std::vector<const float *> &factors,
                                 const float *bias);

// W = V U^T; u is (inputs, rank), v is (outputs, rank).
std::unique_ptr<Layer> make_lowrank(long inputs, long outputs, long rank, const float *u,
                                    const float *v, const float *bias);

}  // namespace sepdeploy
