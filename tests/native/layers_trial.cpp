// Random layers of a native library against sums written out: prints the kernel set and the worst
// relative error. Runs where there is no Python, on an emulated processor for example. Reading or
// writing beyond the samples ends the program.
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

extern "C" {
void *sepdeploy_native_kron(long, const long *, const long *, long, const float *const *,
                            const float *);
void *sepdeploy_native_lowrank(long, long, long, const float *, const float *, const float *);
int sepdeploy_native_run(const void *, const float *, float *, long);
void sepdeploy_native_free(void *);
const char *sepdeploy_native_set(void);
}

static std::mt19937 generator(1);

static std::vector<float> normal(long count) {
    std::normal_distribution<float> distribution;
    std::vector<float> values(static_cast<size_t>(count));
    for (float &v : values) v = distribution(generator);
    return values;
}

static long below(long n) { return 1 + static_cast<long>(generator() % static_cast<unsigned>(n)); }

static double distance(const std::vector<double> &wanted, const std::vector<float> &found) {
    double error = 0, size = 0;
    for (size_t i = 0; i < wanted.size(); ++i) {
        error = std::max(error, std::fabs(wanted[i] - found[i]));
        size = std::max(size, std::fabs(wanted[i]));
    }
    return std::isfinite(error) ? error / size : 1e9;
}

// Floats that end where a page begins that must not be touched.
class Guarded {
public:
    explicit Guarded(const std::vector<float> &values) : count_(values.size()) {
        const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
        const size_t bytes = count_ * sizeof(float), room = (bytes + page - 1) / page * page;
        size_ = room + page;
        memory_ = mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory_ == MAP_FAILED) std::abort();
        char *end = static_cast<char *>(memory_) + room;
        if (mprotect(end, page, PROT_NONE)) std::abort();
        data_ = reinterpret_cast<float *>(end - bytes);
        std::copy(values.begin(), values.end(), data_);
    }
    ~Guarded() { munmap(memory_, size_); }
    Guarded(const Guarded &) = delete;
    Guarded &operator=(const Guarded &) = delete;
    float *data() const { return data_; }
    std::vector<float> values() const { return {data_, data_ + count_}; }

private:
    size_t count_, size_;
    void *memory_;
    float *data_;
};

static std::vector<float> run(void *layer, const std::vector<float> &x, long rows, long outputs) {
    const Guarded from(x), to(std::vector<float>(static_cast<size_t>(rows * outputs), NAN));
    sepdeploy_native_run(layer, from.data(), to.data(), rows);
    sepdeploy_native_free(layer);
    return to.values();
}

static double kron_trial(const std::vector<long> &in, const std::vector<long> &out, long terms,
                         long rows) {
    const long modes = static_cast<long>(in.size());
    std::vector<std::vector<float>> factors;
    std::vector<const float *> pointers;
    long inputs = 1, outputs = 1;
    for (long m = 0; m < modes; ++m) {
        inputs *= in[m];
        outputs *= out[m];
        factors.push_back(normal(terms * in[m] * out[m]));
    }
    for (const auto &f : factors) pointers.push_back(f.data());
    const std::vector<float> bias = normal(outputs), x = normal(rows * inputs);
    std::vector<double> wanted;
    for (long n = 0; n < rows; ++n)
        for (long o = 0; o < outputs; ++o) {
            double total = bias[o];
            for (long i = 0; i < inputs; ++i)
                for (long k = 0; k < terms; ++k) {
                    double weight = 1;
                    long row = o, column = i;
                    for (long m = modes - 1; m >= 0; --m) {
                        const long at = (k * out[m] + row % out[m]) * in[m] + column % in[m];
                        weight *= factors[m][at];
                        row /= out[m];
                        column /= in[m];
                    }
                    total += weight * x[n * inputs + i];
                }
            wanted.push_back(total);
        }
    void *layer = sepdeploy_native_kron(modes, in.data(), out.data(), terms, pointers.data(),
                                        bias.data());
    return distance(wanted, run(layer, x, rows, outputs));
}

static double any_kron_trial() {
    const long modes = below(3), terms = below(3), side = modes == 1 ? 60 : modes == 2 ? 20 : 8;
    std::vector<long> in, out;
    for (long m = 0; m < modes; ++m) {
        in.push_back(below(side));
        out.push_back(below(side));
    }
    return kron_trial(in, out, terms, below(9));
}

// So few inputs and so many outputs that samples run one by one and a vector is longer than a
// sample: what it reads must end with the samples even where it begins before the last of them.
static double wide_trial(long first, long second) {
    return kron_trial({first, second}, {270, 227}, 2, 7);
}

static double lowrank_trial() {
    const long inputs = below(300), outputs = below(60), rank = below(40), rows = below(9);
    const std::vector<float> u = normal(inputs * rank), v = normal(outputs * rank),
                             bias = normal(outputs), x = normal(rows * inputs);
    std::vector<double> wanted;
    for (long n = 0; n < rows; ++n)
        for (long o = 0; o < outputs; ++o) {
            double total = bias[o];
            for (long r = 0; r < rank; ++r) {
                double inner = 0;
                for (long i = 0; i < inputs; ++i) inner += x[n * inputs + i] * u[i * rank + r];
                total += inner * v[o * rank + r];
            }
            wanted.push_back(total);
        }
    void *layer = sepdeploy_native_lowrank(inputs, outputs, rank, u.data(), v.data(), bias.data());
    return distance(wanted, run(layer, x, rows, outputs));
}

int main() {
    double worst = 0;
    for (int i = 0; i < 60; ++i) worst = std::max({worst, any_kron_trial(), lowrank_trial()});
    for (long first : {1, 2, 4})
        for (long second : {1, 2, 3}) worst = std::max(worst, wide_trial(first, second));
    std::printf("%s %g\n", sepdeploy_native_set(), worst);
}
