// Small matrix products on packed weights: the only code that is compiled once per instruction set.
#pragma once

#include <cstddef>

namespace sepdeploy {

using stride = std::ptrdiff_t;

// How the operands move when a loop takes one step.
struct Loop {
    long count = 1;
    stride a = 0, b = 0, init = 0, c = 0;
};

// c[row][column] = init[row][column] + sum over segments and depth of a[row][k] * b[k][column],
// repeated over two loops. Elements of `a` are broadcast, `b` is read in whole vectors along its
// columns (the caller guarantees that whole vectors can be read), all strides are in floats.
struct Product {
    long rows = 0, columns = 0, depth = 0;
    long segments = 1;           // pieces that the depth is cut into
    long tile_rows = 1;          // rows of a tile; of a panel of `a` where that is packed
    long tile_columns = 1;       // columns of a panel of `b`, a multiple of the vector's lanes
    const float *a = nullptr;
    stride a_row = 0, a_step = 0, a_segment = 0, a_tile = 0;
    const float *b = nullptr;
    stride b_step = 0, b_segment = 0, b_tile = 0;
    // Not 0: the vectors of a tile's row are those of as many samples, this far apart in b and in
    // c. Only where a_row is 1.
    stride b_sample = 0, c_sample = 0, init_sample = 0;
    const float *init = nullptr; // null: zeros; has the layout of c, but its own row stride
    stride init_row = 0;
    float *c = nullptr;
    stride c_row = 0, c_column = 1;
    Loop outer, inner;
    bool left_is_weight = false; // which operand is reused by the loops and should stay in cache
};

// c[row][column] = sum over k of a[row][k] * b[column][k]; rows of `b` are padded with zeros to
// whole vectors, those of `a` need not be.
struct Dots {
    long rows = 0, columns = 0, depth = 0;
    const float *a = nullptr;
    stride a_row = 0;
    const float *b = nullptr;
    stride b_row = 0;
    float *c = nullptr;
    stride c_row = 0;
};

struct Kernels {
    const char *name;
    long lanes;         // floats in a vector
    long tile_vectors;  // most vectors in a tile's row
    const long *tile_rows;  // most rows of a tile, by the number of vectors in its row
    void (*product)(const Product &);
    void (*dots)(const Dots &);
};

// The best set that this processor runs.
const Kernels &kernels();

}  // namespace sepdeploy
