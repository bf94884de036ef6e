// Compiled once per instruction set, with SEPDEPLOY_SET naming it and the compiler's own flags
// saying what may be used.
#include "kernels.h"

#include <cstring>

#include "vectors.h"

#define SEPDEPLOY_JOIN2(a, b) a##b
#define SEPDEPLOY_JOIN(a, b) SEPDEPLOY_JOIN2(a, b)
#define SEPDEPLOY_TEXT2(a) #a
#define SEPDEPLOY_TEXT(a) SEPDEPLOY_TEXT2(a)

namespace sepdeploy {
namespace SEPDEPLOY_SET {
namespace {

struct Tile {
    const float *a, *b, *init;
    float *c;
    long columns;  // of the result that exist; the last vector may be a part
};

// How a tile's operands lie in memory.
enum class Kind {
    strided,   // rows of a are a stride apart
    adjacent,  // rows of a follow one another: packed weights, or a mode that runs fastest
    spread,    // as adjacent, and the vectors of b come from several samples
};

constexpr int chains(int accumulators) {
    return accumulators >= LATENCY ? 1 : (LATENCY + accumulators - 1) / accumulators > 4 ? 4
                                       : (LATENCY + accumulators - 1) / accumulators;
}

// ROWS x VECTORS accumulators. Small tiles keep several sets of them, one per step of the depth,
// because a chain of dependent additions would leave the multipliers waiting.
template <int ROWS, int VECTORS, Kind KIND>
void tile(const Product &p, const Tile &t) {
    constexpr int CHAINS = chains(ROWS * VECTORS);
    Vector sums[CHAINS][ROWS][VECTORS];
    SEPDEPLOY_UNROLL
    for (int s = 0; s < CHAINS; ++s) {
        SEPDEPLOY_UNROLL
        for (int i = 0; i < ROWS; ++i) {
            SEPDEPLOY_UNROLL
            for (int j = 0; j < VECTORS; ++j) sums[s][i][j] = Vector{};
        }
    }
    constexpr bool SPREAD = KIND == Kind::spread;
    const stride a_row = KIND == Kind::strided ? p.a_row : 1, a_step = p.a_step, b_step = p.b_step;
    const stride b_vector = SPREAD ? p.b_sample : LANES, c_vector = SPREAD ? p.c_sample : LANES;
    const stride init_vector = SPREAD ? p.init_sample : LANES;
    const float *a = t.a, *b = t.b;
    for (long segment = 0; segment < p.segments; ++segment) {
        const float *x = a, *y = b;
        long k = p.depth;
        for (; k >= CHAINS; k -= CHAINS) {
            SEPDEPLOY_UNROLL
            for (int s = 0; s < CHAINS; ++s) {
                Vector right[VECTORS];
                SEPDEPLOY_UNROLL
                for (int j = 0; j < VECTORS; ++j) right[j] = load(y + j * b_vector);
                SEPDEPLOY_UNROLL
                for (int i = 0; i < ROWS; ++i) {
                    const Vector left = splat(x[i * a_row]);
                    SEPDEPLOY_UNROLL
                    for (int j = 0; j < VECTORS; ++j) sums[s][i][j] += left * right[j];
                }
                x += a_step;
                y += b_step;
            }
        }
        if constexpr (CHAINS > 1) {
            for (; k > 0; --k) {
                SEPDEPLOY_UNROLL
                for (int i = 0; i < ROWS; ++i) {
                    const Vector left = splat(x[i * a_row]);
                    SEPDEPLOY_UNROLL
                    for (int j = 0; j < VECTORS; ++j)
                        sums[0][i][j] += left * load(y + j * b_vector);
                }
                x += a_step;
                y += b_step;
            }
        }
        a += p.a_segment;
        b += p.b_segment;
    }
    const long part = t.columns - (VECTORS - 1) * LANES;  // of the last vector
    SEPDEPLOY_UNROLL
    for (int i = 0; i < ROWS; ++i) {
        SEPDEPLOY_UNROLL
        for (int j = 0; j < VECTORS; ++j) {
            Vector v = sums[0][i][j];
            SEPDEPLOY_UNROLL
            for (int s = 1; s < CHAINS; ++s) v += sums[s][i][j];
            sums[0][i][j] = v;
        }
    }
    if (!SPREAD && p.c_column != 1) {
        float all[ROWS][VECTORS * LANES];
        SEPDEPLOY_UNROLL
        for (int i = 0; i < ROWS; ++i) {
            SEPDEPLOY_UNROLL
            for (int j = 0; j < VECTORS; ++j) store(all[i] + j * LANES, sums[0][i][j]);
        }
        for (long n = 0; n < t.columns; ++n) {
            float *c = t.c + n * p.c_column;
            SEPDEPLOY_UNROLL
            for (int i = 0; i < ROWS; ++i)
                c[i * p.c_row] =
                    all[i][n] + (t.init ? t.init[n * p.c_column + i * p.init_row] : 0.0f);
        }
        return;
    }
    SEPDEPLOY_UNROLL
    for (int i = 0; i < ROWS; ++i) {
        float *c = t.c + i * p.c_row;
        SEPDEPLOY_UNROLL
        for (int j = 0; j < VECTORS; ++j) {
            const bool whole = SPREAD || j < VECTORS - 1 || part >= LANES;
            Vector v = sums[0][i][j];
            if (t.init) {
                const float *init = t.init + i * p.init_row + j * init_vector;
                v += whole ? load(init) : load_first(init, part);
            }
            if (whole)
                store(c + j * c_vector, v);
            else
                store_first(c + j * c_vector, v, part);
        }
    }
}

typedef void (*TileFunction)(const Product &, const Tile &);

template <int VECTORS, Kind KIND>
TileFunction by_rows(long rows) {
#define SEPDEPLOY_ROW(n) \
    case n:              \
        if constexpr (n <= TILE_ROWS[VECTORS]) return tile<n, VECTORS, KIND>; \
        break;
    switch (rows) {
        SEPDEPLOY_ROW(1)
        SEPDEPLOY_ROW(2)
        SEPDEPLOY_ROW(3)
        SEPDEPLOY_ROW(4)
        SEPDEPLOY_ROW(5)
        SEPDEPLOY_ROW(6)
        SEPDEPLOY_ROW(7)
        SEPDEPLOY_ROW(8)
        SEPDEPLOY_ROW(9)
        SEPDEPLOY_ROW(10)
        SEPDEPLOY_ROW(11)
        SEPDEPLOY_ROW(12)
    }
#undef SEPDEPLOY_ROW
    return nullptr;
}

template <Kind KIND>
TileFunction by_vectors(long rows, long vectors) {
    if (vectors == 1) return by_rows<1, KIND == Kind::spread ? Kind::adjacent : KIND>(rows);
    if (vectors == 2) return by_rows<2, KIND>(rows);
    if constexpr (TILE_VECTORS > 2) return by_rows<TILE_VECTORS, KIND>(rows);
    return nullptr;
}

TileFunction choose(const Product &p, long rows, long columns) {
    const long vectors = (columns + LANES - 1) / LANES;
    if (p.b_sample) return by_vectors<Kind::spread>(rows, vectors);
    return p.a_row == 1 ? by_vectors<Kind::adjacent>(rows, vectors)
                        : by_vectors<Kind::strided>(rows, vectors);
}

inline long least(long a, long b) { return a < b ? a : b; }

// One panel of one operand against all of the other, for every step of both loops.
void left_panel(const Product &p, long row) {
    const long rows = least(p.tile_rows, p.rows - row);
    const float *a = p.a + row / p.tile_rows * p.a_tile;
    const TileFunction full = choose(p, rows, least(p.tile_columns, p.columns));
    const long rest = p.columns % p.tile_columns;
    const TileFunction last = rest ? choose(p, rows, rest) : full;
    for (long o = 0; o < p.outer.count; ++o)
        for (long i = 0; i < p.inner.count; ++i) {
            const stride at_b = o * p.outer.b + i * p.inner.b;
            const stride at_c = o * p.outer.c + i * p.inner.c;
            const stride at_init = o * p.outer.init + i * p.inner.init;
            for (long n = 0; n < p.columns; n += p.tile_columns) {
                const long columns = least(p.tile_columns, p.columns - n);
                const stride sample = p.b_sample ? n / LANES : 0, column = p.b_sample ? 0 : n;
                const Tile t = {a + o * p.outer.a + i * p.inner.a,
                                p.b + at_b + n / p.tile_columns * p.b_tile,
                                p.init ? p.init + at_init + row * p.init_row +
                                             column * p.c_column + sample * p.init_sample
                                       : nullptr,
                                p.c + at_c + row * p.c_row + column * p.c_column +
                                    sample * p.c_sample,
                                columns};
                (columns < p.tile_columns ? last : full)(p, t);
            }
        }
}

void right_panel(const Product &p, long n) {
    const long columns = least(p.tile_columns, p.columns - n);
    const float *b = p.b + n / p.tile_columns * p.b_tile;
    const TileFunction full = choose(p, least(p.tile_rows, p.rows), columns);
    const long rest = p.rows % p.tile_rows;
    const TileFunction last = rest ? choose(p, rest, columns) : full;
    for (long o = 0; o < p.outer.count; ++o)
        for (long i = 0; i < p.inner.count; ++i) {
            const stride at_a = o * p.outer.a + i * p.inner.a;
            const stride at_c = o * p.outer.c + i * p.inner.c;
            const stride at_init = o * p.outer.init + i * p.inner.init;
            for (long row = 0; row < p.rows; row += p.tile_rows) {
                const Tile t = {p.a + at_a + row / p.tile_rows * p.a_tile,
                                b + o * p.outer.b + i * p.inner.b,
                                p.init ? p.init + at_init + row * p.init_row + n * p.c_column
                                       : nullptr,
                                p.c + at_c + row * p.c_row + n * p.c_column, columns};
                (p.rows - row < p.tile_rows ? last : full)(p, t);
            }
        }
}

// All panels of b against one tile of rows: what is written lies close together.
void right_rows(const Product &p) {
    for (long o = 0; o < p.outer.count; ++o)
        for (long i = 0; i < p.inner.count; ++i) {
            const float *a = p.a + o * p.outer.a + i * p.inner.a;
            const float *b = p.b + o * p.outer.b + i * p.inner.b;
            const stride at_c = o * p.outer.c + i * p.inner.c;
            const stride at_init = o * p.outer.init + i * p.inner.init;
            for (long row = 0; row < p.rows; row += p.tile_rows) {
                const long rows = least(p.tile_rows, p.rows - row);
                const TileFunction full = choose(p, rows, least(p.tile_columns, p.columns));
                for (long n = 0; n < p.columns; n += p.tile_columns) {
                    const long columns = least(p.tile_columns, p.columns - n);
                    const Tile t = {a + row / p.tile_rows * p.a_tile,
                                    b + n / p.tile_columns * p.b_tile,
                                    p.init ? p.init + at_init + row * p.init_row + n * p.c_column
                                           : nullptr,
                                    p.c + at_c + row * p.c_row + n * p.c_column, columns};
                    (columns < p.tile_columns ? choose(p, rows, columns) : full)(p, t);
                }
            }
        }
}

void panels(const Product &p) {
    if (!p.left_is_weight && p.depth * p.segments <= SHALLOW) return right_rows(p);
    if (p.left_is_weight)
        for (long row = 0; row < p.rows; row += p.tile_rows) left_panel(p, row);
    else
        for (long n = 0; n < p.columns; n += p.tile_columns) right_panel(p, n);
}

// Width of equal blocks of n of about `most`.
inline long even_block(long n, long most) {
    const long blocks = (n + most - 1) / most;
    return (n + blocks - 1) / blocks;
}

// A deep product in blocks whose panels stay in the nearest cache, where panels are used again.
void product(const Product &p) {
    const long most = BLOCK_FLOATS / p.tile_columns > LEAST_BLOCK ? BLOCK_FLOATS / p.tile_columns
                                                                  : LEAST_BLOCK;
    const long repeats = p.outer.count * p.inner.count *
                         (p.left_is_weight ? (p.columns + p.tile_columns - 1) / p.tile_columns
                                           : (p.rows + p.tile_rows - 1) / p.tile_rows);
    if (repeats < 2 || p.segments * p.depth <= most) return panels(p);
    const long block = even_block(p.depth, most);
    Product part = p;
    part.segments = 1;
    for (long segment = 0; segment < p.segments; ++segment)
        for (long k = 0; k < p.depth; k += block) {
            part.depth = least(block, p.depth - k);
            part.a = p.a + segment * p.a_segment + k * p.a_step;
            part.b = p.b + segment * p.b_segment + k * p.b_step;
            panels(part);
            // The next block adds to what this one left.
            part.init = p.c;
            part.init_row = p.c_row;
            part.init_sample = p.c_sample;
            part.outer.init = p.outer.c;
            part.inner.init = p.inner.c;
        }
}

template <int ROWS, int COLUMNS>
void dot_tile(const Dots &d, const float *a, const float *b, float *c, bool more) {
    Vector sums[ROWS][COLUMNS];
    SEPDEPLOY_UNROLL
    for (int i = 0; i < ROWS; ++i) {
        SEPDEPLOY_UNROLL
        for (int j = 0; j < COLUMNS; ++j) sums[i][j] = Vector{};
    }
    long k = 0;
    for (; k + LANES <= d.depth; k += LANES) {
        Vector left[ROWS];
        SEPDEPLOY_UNROLL
        for (int i = 0; i < ROWS; ++i) left[i] = load(a + i * d.a_row + k);
        SEPDEPLOY_UNROLL
        for (int j = 0; j < COLUMNS; ++j) {
            const Vector right = load(b + j * d.b_row + k);
            SEPDEPLOY_UNROLL
            for (int i = 0; i < ROWS; ++i) sums[i][j] += left[i] * right;
        }
    }
    if (k < d.depth) {
        Vector left[ROWS];
        SEPDEPLOY_UNROLL
        for (int i = 0; i < ROWS; ++i) left[i] = load_first(a + i * d.a_row + k, d.depth - k);
        SEPDEPLOY_UNROLL
        for (int j = 0; j < COLUMNS; ++j) {
            const Vector right = load(b + j * d.b_row + k);
            SEPDEPLOY_UNROLL
            for (int i = 0; i < ROWS; ++i) sums[i][j] += left[i] * right;
        }
    }
    SEPDEPLOY_UNROLL
    for (int i = 0; i < ROWS; ++i) {
        SEPDEPLOY_UNROLL
        for (int j = 0; j < COLUMNS; ++j)
            c[i * d.c_row + j] = sum(sums[i][j]) + (more ? c[i * d.c_row + j] : 0.0f);
    }
}

// Columns in pieces of nearly equal size, at most MOST at once.
template <int ROWS, int MOST>
void dot_rows(const Dots &d, long row, bool more) {
    const long pieces = (d.columns + MOST - 1) / MOST;
    long n = 0;
    for (long piece = 0; piece < pieces; ++piece) {
        const long count = (d.columns - n + (pieces - piece) - 1) / (pieces - piece);
        const float *a = d.a + row * d.a_row, *b = d.b + n * d.b_row;
        float *c = d.c + row * d.c_row + n;
#define SEPDEPLOY_COLUMNS(m)                                             \
    case m:                                                              \
        if constexpr (m <= MOST) dot_tile<ROWS, m>(d, a, b, c, more);    \
        break;
        switch (count) {
            SEPDEPLOY_COLUMNS(1)
            SEPDEPLOY_COLUMNS(2)
            SEPDEPLOY_COLUMNS(3)
            SEPDEPLOY_COLUMNS(4)
            SEPDEPLOY_COLUMNS(5)
            SEPDEPLOY_COLUMNS(6)
            SEPDEPLOY_COLUMNS(7)
            SEPDEPLOY_COLUMNS(8)
            SEPDEPLOY_COLUMNS(9)
            SEPDEPLOY_COLUMNS(10)
            SEPDEPLOY_COLUMNS(11)
            SEPDEPLOY_COLUMNS(12)
        }
#undef SEPDEPLOY_COLUMNS
        n += count;
    }
}

void dots(const Dots &d) {
    Dots part = d;
    const long block = d.rows < DOT_ROWS ? d.depth : DOT_BLOCK;
    for (long k = 0; k < d.depth; k += block) {
        part.a = d.a + k;
        part.b = d.b + k;
        part.depth = least(block, d.depth - k);
        long row = 0;
        for (; row + DOT_ROWS <= d.rows; row += DOT_ROWS)
            dot_rows<DOT_ROWS, DOT_COLUMNS>(part, row, k > 0);
        for (; row < d.rows; ++row) dot_rows<1, DOT_SINGLE>(part, row, k > 0);
    }
}

}  // namespace
}  // namespace SEPDEPLOY_SET

extern const Kernels SEPDEPLOY_JOIN(SEPDEPLOY_SET, _kernels);
const Kernels SEPDEPLOY_JOIN(SEPDEPLOY_SET, _kernels) = {
    SEPDEPLOY_TEXT(SEPDEPLOY_SET), SEPDEPLOY_SET::LANES,   SEPDEPLOY_SET::TILE_VECTORS,
    SEPDEPLOY_SET::TILE_ROWS,      SEPDEPLOY_SET::product, SEPDEPLOY_SET::dots,
};

}  // namespace sepdeploy
