#include <algorithm>

#include "packing.h"

namespace sepdeploy {
namespace {

// A thin and deep first product runs as dot products along the inputs; one that fills its vectors
// only if it is very deep.
constexpr long MOST_DOTS = 24, DEEP = 256, VERY_DEEP = 2048;

class LowRank final : public Layer {
public:
    LowRank(long inputs, long outputs, long rank, const float *u, const float *v, const float *bias)
        : set_(kernels()), rank_(rank) {
        inputs_ = inputs;
        outputs_ = outputs;
        const long most = set_.lanes * set_.tile_vectors;
        dots_ = rank <= MOST_DOTS && inputs >= (rank % set_.lanes ? DEEP : VERY_DEEP);
        const auto left = [&](long r, long k) { return u[k * rank + r]; };
        if (dots_) {
            row_ = round_up(inputs, PADDING);
            u_ = Buffer(static_cast<size_t>(rank * row_));
            std::fill(u_.data(), u_.data() + rank * row_, 0.0f);
            for (long r = 0; r < rank; ++r)
                for (long k = 0; k < inputs; ++k) u_.data()[r * row_ + k] = left(r, k);
        } else {
            inner_columns_ = even_piece(rank, most, set_.lanes);
            u_ = panels(rank, inputs, inner_columns_, left);
        }
        outer_columns_ = even_piece(outputs, most, set_.lanes);
        v_ = panels(outputs, rank, outer_columns_, [&](long o, long k) { return v[o * rank + k]; });
        if (bias && std::any_of(bias, bias + outputs, [](float b) { return b != 0; })) {
            bias_ = Buffer(static_cast<size_t>(outputs + PADDING));
            std::copy(bias, bias + outputs, bias_.data());
        }
    }

    double work() const override {
        return static_cast<double>(rank_) * static_cast<double>(inputs_ + outputs_);
    }

    void run(const float *x, float *y, long samples) const override {
        float *inner = scratch(static_cast<size_t>(samples * rank_ + PADDING));
        if (dots_) {
            Dots d;
            d.rows = samples;
            d.columns = rank_;
            d.depth = inputs_;
            d.a = x;
            d.a_row = inputs_;
            d.b = u_.data();
            d.b_row = row_;
            d.c = inner;
            d.c_row = rank_;
            set_.dots(d);
        } else {
            set_.product(dense(x, samples, inputs_, u_, rank_, inner_columns_, inner));
        }
        Product p = dense(inner, samples, rank_, v_, outputs_, outer_columns_, y);
        p.init = bias_.data();
        set_.product(p);
    }

private:
    Product dense(const float *x, long samples, long depth, const Buffer &weights, long columns,
                  long tile, float *y) const {
        Product p;
        p.rows = samples;
        p.columns = columns;
        p.depth = depth;
        p.tile_rows = even_piece(samples, set_.tile_rows[tile / set_.lanes], 1);
        p.tile_columns = tile;
        p.a = x;
        p.a_row = depth;
        p.a_step = 1;
        p.a_tile = p.tile_rows * depth;
        p.b = weights.data();
        p.b_step = tile;
        p.b_tile = tile * depth;
        p.c = y;
        p.c_row = columns;
        return p;
    }

    const Kernels &set_;
    const long rank_;
    bool dots_ = false;
    long row_ = 0, inner_columns_ = 1, outer_columns_ = 1;
    Buffer u_, v_, bias_;
};

}  // namespace

std::unique_ptr<Layer> make_lowrank(long inputs, long outputs, long rank, const float *u,
                                    const float *v, const float *bias) {
    if (inputs < 1 || outputs < 1 || rank < 1 || inputs > MOST / rank || outputs > MOST / rank)
        return nullptr;
    return std::make_unique<LowRank>(inputs, outputs, rank, u, v, bias);
}

}  // namespace sepdeploy
