// Weights in the order that the kernels read them, and memory to work in.
#pragma once

#include <algorithm>

#include "layer.h"

namespace sepdeploy {

constexpr long PADDING = 16;            // floats behind a buffer that whole vectors may read
constexpr long SCRATCH_FLOATS = 65536;  // of a block of samples, so that it stays in the cache
constexpr long MOST = 1L << 40;         // elements of anything

inline long round_up(long n, long unit) { return (n + unit - 1) / unit * unit; }

// The width of equal pieces of n that are at most `most` wide, a multiple of `unit`.
inline long even_piece(long n, long most, long unit) {
    const long units = (n + unit - 1) / unit, limit = most / unit;
    const long pieces = (units + limit - 1) / limit;
    return (units + pieces - 1) / pieces * unit;
}

// Scratch memory of this thread, kept from call to call.
float *scratch(size_t count);

// A matrix in panels of `tile` lines, the depth running slowest inside: a left operand, which is
// read by broadcasts, in panels of rows; a right one, which is read by vectors, of columns.
// weight(line, k) with k running over all segments; lines behind the last are zeros.
template <class Weight>
Buffer panels(long lines, long depth, long tile, Weight weight) {
    Buffer packed(static_cast<size_t>(round_up(lines, tile) * depth + PADDING));
    float *at = packed.data();
    for (long line = 0; line < lines; line += tile)
        for (long k = 0; k < depth; ++k)
            for (long i = 0; i < tile; ++i) *at++ = line + i < lines ? weight(line + i, k) : 0.0f;
    return packed;
}

}  // namespace sepdeploy
