#include <algorithm>
#include <cstring>
#include <numeric>

#include "packing.h"

namespace sepdeploy {
namespace {

constexpr long FEW_ROWS = 8;  // of a sample: so few fill no tile

enum class Form {
    rows,     // the mode runs fastest: its vectors are rows, the weights stand on the right
    columns,  // many values run faster: the weights stand on the left
    scatter,  // a few values run faster: as rows, with strided reads and writes
};

// The contraction of one mode: (left, in, right) becomes (left, out, right), for each term.
struct Step {
    Form form = Form::rows;
    long left = 1, in = 1, out = 1, right = 1;
    bool fan = false, sum = false;  // several terms: the first and the last step
    long tile_rows = 1, tile_columns = 1;
    std::vector<Buffer> weights;    // one per term, or one of all terms where `sum`
};

struct Factor {
    long in = 1, out = 1;
    std::vector<float> values;  // (terms, out, in)
};

// Cycles, roughly; decides about forms, orders and merging.
double step_cost(Form form, const Step &s, const Kernels &set, long copies) {
    const double vectors = static_cast<double>(copies) * s.in / 2;
    const auto full = [&](long n) {
        return static_cast<double>(round_up(n, set.lanes)) / set.lanes;
    };
    const double moved = static_cast<double>(copies) * s.left * s.right * s.out;
    // A tile of few rows waits for its weights.
    const auto rows = [&](long n) { return static_cast<double>(n) + (n < 4 ? 1 : 0); };
    switch (form) {
        case Form::rows:
            return vectors * rows(s.left) * full(s.out) + 30;
        case Form::columns:
            return vectors * s.left * s.out * full(s.right) + 30.0 + 10.0 * s.left;
        case Form::scatter:
            return vectors * s.left * rows(s.right) * full(s.out) + moved + 30 + 10.0 * s.left;
    }
    return 0;
}

Form best_form(const Step &s, const Kernels &set, long copies) {
    if (s.right == 1) return Form::rows;
    return step_cost(Form::columns, s, set, copies) <= step_cost(Form::scatter, s, set, copies)
               ? Form::columns
               : Form::scatter;
}

// The steps of an order of modes, without weights, and their cost.
std::vector<Step> steps_of(const std::vector<Factor> &factors, const std::vector<int> &order,
                           long terms, const Kernels &set, double *cost) {
    std::vector<long> sizes;
    for (const Factor &f : factors) sizes.push_back(f.in);
    std::vector<Step> steps;
    *cost = 0;
    for (size_t at = 0; at < order.size(); ++at) {
        const int mode = order[at];
        Step s;
        for (int m = 0; m < mode; ++m) s.left *= sizes[m];
        for (size_t m = mode + 1; m < sizes.size(); ++m) s.right *= sizes[m];
        s.in = factors[mode].in;
        s.out = factors[mode].out;
        // A single mode needs no terms: its matrices are added up when the layer is made.
        s.fan = terms > 1 && at == 0 && order.size() > 1;
        s.sum = terms > 1 && at + 1 == order.size() && order.size() > 1;
        const long copies = order.size() > 1 ? terms : 1;
        s.form = best_form(s, set, copies);
        *cost += step_cost(s.form, s, set, copies);
        sizes[mode] = s.out;
        steps.push_back(std::move(s));
    }
    return steps;
}

// The sum of a factor's terms.
Factor summed(const Factor &f, long terms) {
    Factor total;
    total.in = f.in;
    total.out = f.out;
    total.values.assign(static_cast<size_t>(f.in * f.out), 0.0f);
    for (long k = 0; k < terms; ++k)
        for (long e = 0; e < f.in * f.out; ++e) total.values[e] += f.values[k * f.in * f.out + e];
    return total;
}

// Two neighbouring modes as one.
Factor merged(const Factor &a, const Factor &b, long terms) {
    Factor f;
    f.in = a.in * b.in;
    f.out = a.out * b.out;
    f.values.resize(static_cast<size_t>(terms * f.in * f.out));
    float *at = f.values.data();
    for (long k = 0; k < terms; ++k)
        for (long o = 0; o < f.out; ++o)
            for (long i = 0; i < f.in; ++i)
                *at++ = a.values[(k * a.out + o / b.out) * a.in + i / b.in] *
                        b.values[(k * b.out + o % b.out) * b.in + i % b.in];
    return f;
}

constexpr size_t MOST_ORDERED = 5;  // modes whose orders are all tried

double best_steps(const std::vector<Factor> &factors, long terms, const Kernels &set,
                  std::vector<Step> *steps, std::vector<int> *order) {
    std::vector<int> tried(factors.size());
    std::iota(tried.begin(), tried.end(), 0);
    std::reverse(tried.begin(), tried.end());
    double best = -1;
    do {
        double cost = 0;
        std::vector<Step> found = steps_of(factors, tried, terms, set, &cost);
        if (best < 0 || cost < best) {
            best = cost;
            *steps = std::move(found);
            *order = tried;
        }
    } while (factors.size() <= MOST_ORDERED && std::prev_permutation(tried.begin(), tried.end()));
    return best;
}

class Kron final : public Layer {
public:
    Kron(const KronShape &shape, std::vector<Factor> factors, const float *bias)
        : set_(kernels()), terms_(shape.terms) {
        inputs_ = outputs_ = 1;
        for (const Factor &f : factors) inputs_ *= f.in, outputs_ *= f.out;
        std::vector<int> order;
        arrange(&factors, &order);
        if (factors.size() == 1 && terms_ > 1) {
            factors[0] = summed(factors[0], terms_);
            terms_ = 1;
        }
        widest_ = inputs_;
        long size = inputs_;
        for (Step &s : steps_) {
            work_ += static_cast<double>(terms_) * s.left * s.right * s.in * s.out;
            size = s.left * s.out * s.right;
            widest_ = std::max(widest_, size * (s.sum || terms_ == 1 ? 1 : terms_));
        }
        for (size_t at = 0; at < steps_.size(); ++at) pack(steps_[at], factors[order[at]]);
        for (const Factor &f : factors) weights_ += static_cast<long>(f.values.size());
        if (bias && std::any_of(bias, bias + outputs_, [](float b) { return b != 0; })) {
            bias_ = Buffer(static_cast<size_t>(outputs_ + PADDING));
            std::copy(bias, bias + outputs_, bias_.data());
        }
        const Step &first = steps_.front();
        reads_over_ = first.form == Form::columns && first.right % set_.lanes != 0;
    }

    double work() const override { return work_; }

    void run(const float *x, float *y, long samples) const override {
        // Weights that are larger than that are better read once for more samples.
        const long room = std::max(SCRATCH_FLOATS, weights_);
        const long block = std::max(1L, std::min(samples, room / widest_));
        const long half = round_up(block * widest_ + PADDING, PADDING);
        float *memory = scratch(static_cast<size_t>(2 * half));
        for (long done = 0; done < samples; done += block) {
            const long count = std::min(block, samples - done);
            const float *from = x + done * inputs_;
            float *next = memory, *other = memory + half;
            // A sample may be shorter than a vector: so may all of them behind this block.
            if (reads_over_ && (samples - done - count) * inputs_ < PADDING) {
                std::memcpy(other, from, sizeof(float) * static_cast<size_t>(count * inputs_));
                from = other;
            }
            for (size_t at = 0; at < steps_.size(); ++at) {
                const bool last = at + 1 == steps_.size();
                float *to = last ? y + done * outputs_ : next;
                step(steps_[at], from, to, count, last);
                from = to;
                std::swap(next, other);
            }
        }
    }

private:
    // Merge neighbours while that makes the layer cheaper, then order the modes.
    void arrange(std::vector<Factor> *factors, std::vector<int> *order) {
        double cost = best_steps(*factors, terms_, set_, &steps_, order);
        while (factors->size() > 1) {
            double best = cost;
            std::vector<Factor> chosen;
            for (size_t m = 0; m + 1 < factors->size(); ++m) {
                const Factor &a = (*factors)[m], &b = (*factors)[m + 1];
                const bool trivial = a.in * a.out == 1 || b.in * b.out == 1;
                if (!trivial && (a.in * b.in > 64 || a.out * b.out > 64)) continue;
                std::vector<Factor> tried(factors->begin(), factors->begin() + m);
                tried.push_back(merged(a, b, terms_));
                tried.insert(tried.end(), factors->begin() + m + 2, factors->end());
                std::vector<Step> steps;
                std::vector<int> found;
                const double now = best_steps(tried, terms_, set_, &steps, &found);
                if (now < best) {
                    best = now;
                    chosen = std::move(tried);
                }
            }
            if (chosen.empty()) return;
            *factors = std::move(chosen);
            cost = best_steps(*factors, terms_, set_, &steps_, order);
        }
    }

    long most_rows(long tile_columns) const {
        return set_.tile_rows[(tile_columns + set_.lanes - 1) / set_.lanes];
    }

    void pack(Step &s, const Factor &f) {
        const long vectors = set_.lanes * set_.tile_vectors;
        const long width = s.form == Form::columns ? s.right : s.out;
        const long height = s.form == Form::columns ? s.out
                            : s.form == Form::scatter ? s.right
                                                      : 1;
        s.tile_columns = even_piece(width, vectors, set_.lanes);
        // Samples may fill a tile's row: then there are fewer rows.
        const bool spread = s.form == Form::columns && s.right == set_.lanes;
        const long most = most_rows(spread ? vectors : s.tile_columns);
        s.tile_rows = even_piece(height, most, 1);
        const long packs = s.sum ? 1 : terms_, pieces = s.sum ? terms_ : 1;
        for (long k = 0; k < packs; ++k) {
            const auto weight = [&](long o, long at) {
                const long term = k + at / s.in;
                return f.values[static_cast<size_t>((term * s.out + o) * s.in + at % s.in)];
            };
            const long tile = s.form == Form::columns ? s.tile_rows : s.tile_columns;
            s.weights.push_back(panels(s.out, pieces * s.in, tile, weight));
        }
    }

    void step(const Step &s, const float *from, float *to, long samples, bool last) const {
        const long before = s.left * s.in * s.right, after = s.left * s.out * s.right;
        const long sources = terms_ > 1 && !s.fan ? terms_ : 1;
        const long targets = terms_ > 1 && !s.sum ? terms_ : 1;
        for (size_t k = 0; k < s.weights.size(); ++k) {
            Product p;
            p.depth = s.in;
            p.segments = s.sum ? terms_ : 1;
            p.tile_rows = s.tile_rows;
            p.tile_columns = s.tile_columns;
            p.init = last ? bias_.data() : nullptr;
            p.outer.count = samples;
            p.outer.c = targets * after;
            const float *x = from + (s.fan || s.sum ? 0 : static_cast<long>(k) * before);
            p.c = to + (targets > 1 ? static_cast<long>(k) * after : 0);
            if (s.form == Form::columns)
                columns(p, s, x, s.weights[k].data(), before, sources);
            else
                rows(p, s, x, s.weights[k].data(), before, sources);
            set_.product(p);
        }
    }

    void columns(Product &p, const Step &s, const float *x, const float *weights,
                 long before, long sources) const {
        p.rows = s.out;
        p.columns = s.right;
        p.left_is_weight = true;
        p.a = weights;
        p.a_row = 1;
        p.a_step = s.tile_rows;
        p.a_segment = s.tile_rows * s.in;
        p.a_tile = p.segments * p.a_segment;
        p.b = x;
        p.b_step = s.right;
        p.b_segment = before;
        p.b_tile = s.tile_columns;
        p.c_row = p.init_row = s.right;
        p.outer.b = sources * before;
        p.inner.count = s.left;
        p.inner.b = s.in * s.right;
        p.inner.c = p.inner.init = s.out * s.right;
        // A single vector a row leaves registers unused: the samples fill them.
        if (p.outer.count > 1 && s.right == set_.lanes) {
            p.b_sample = p.outer.b;
            p.c_sample = p.outer.c;
            p.columns = p.outer.count * set_.lanes;
            p.tile_columns = set_.tile_vectors * set_.lanes;
            p.b_tile = set_.tile_vectors * p.b_sample;
            p.outer = Loop{};
        }
    }

    void rows(Product &p, const Step &s, const float *x, const float *weights, long before,
              long sources) const {
        p.columns = s.out;
        p.a = x;
        p.a_segment = before;
        p.b = weights;
        p.b_step = s.tile_columns;
        p.b_segment = s.tile_columns * s.in;
        p.b_tile = p.segments * p.b_segment;
        p.outer.a = sources * before;
        if (s.form == Form::scatter) {
            p.rows = s.right;
            p.a_row = 1;
            p.a_step = p.c_column = s.right;
            p.a_tile = s.tile_rows;
            p.c_row = p.init_row = 1;
            p.inner.count = s.left;
            p.inner.a = s.in * s.right;
            p.inner.c = p.inner.init = s.out * s.right;
            return;
        }
        p.rows = s.left;
        p.a_row = s.in;
        p.a_step = 1;
        p.c_row = p.init_row = s.out;
        // Rows of all samples follow one another: fewer tiles stay incomplete.
        const long after = s.left * s.out;
        if (p.outer.count > 1 && p.outer.a == before && p.outer.c == after &&
            (!p.init || s.left < FEW_ROWS)) {
            if (p.init && s.left == 1) {
                p.init_row = 0;
            } else if (p.init) {  // the bias is there before the product
                for (long n = 0; n < p.outer.count; ++n)
                    std::copy(p.init, p.init + after, p.c + n * after);
                p.init = p.c;
            }
            p.rows *= p.outer.count;
            p.outer = Loop{};
        }
        p.tile_rows = even_piece(p.rows, most_rows(s.tile_columns), 1);
        p.a_tile = p.tile_rows * s.in;
    }

    const Kernels &set_;
    long terms_;
    std::vector<Step> steps_;
    Buffer bias_;
    long widest_ = 0, weights_ = 0;
    double work_ = 0;
    bool reads_over_ = false;  // whole vectors are read beyond the end of the input
};

}  // namespace

std::unique_ptr<Layer> make_kron(const KronShape &shape, const std::vector<const float *> &factors,
                                 const float *bias) {
    const size_t modes = shape.in.size();
    if (modes == 0 || shape.out.size() != modes || factors.size() != modes || shape.terms < 1)
        return nullptr;
    long in = shape.terms, out = shape.terms;
    std::vector<Factor> known;
    for (size_t m = 0; m < modes; ++m) {
        const long i = shape.in[m], o = shape.out[m];
        if (i < 1 || o < 1 || i > MOST / in || o > MOST / out) return nullptr;
        in *= i;
        out *= o;
        Factor f;
        f.in = i;
        f.out = o;
        f.values.assign(factors[m], factors[m] + shape.terms * i * o);
        known.push_back(std::move(f));
    }
    return std::make_unique<Kron>(shape, std::move(known), bias);
}

}  // namespace sepdeploy
