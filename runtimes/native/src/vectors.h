// The vectors of one instruction set: how many numbers they hold, how wide tiles of them are.
// Included by kernels.cpp alone, once per set.
#pragma once

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

// Unrolled completely: accumulators stay in registers only where every index is a constant.
#if defined(__clang__)
#define SEPDEPLOY_UNROLL _Pragma("clang loop unroll(full)")
#else
#define SEPDEPLOY_UNROLL _Pragma("GCC unroll 32")
#endif

namespace sepdeploy {
// Not an unnamed namespace per set only: functions of two sets must never be merged by the linker.
namespace SEPDEPLOY_SET {
namespace {

#if defined(__AVX512F__)
constexpr int LANES = 16, TILE_VECTORS = 3, DOT_ROWS = 4, DOT_COLUMNS = 5;
constexpr long TILE_ROWS[] = {0, 12, 8, 8};
#elif defined(__AVX2__)
constexpr int LANES = 8, TILE_VECTORS = 2, DOT_ROWS = 2, DOT_COLUMNS = 5;
constexpr long TILE_ROWS[] = {0, 8, 6, 0};
#elif defined(__aarch64__)
constexpr int LANES = 4, TILE_VECTORS = 3, DOT_ROWS = 4, DOT_COLUMNS = 5;
constexpr long TILE_ROWS[] = {0, 12, 8, 8};
#else
constexpr int LANES = 4, TILE_VECTORS = 2, DOT_ROWS = 2, DOT_COLUMNS = 4;
constexpr long TILE_ROWS[] = {0, 6, 4, 0};
#endif
constexpr int DOT_SINGLE = 12;  // columns at once where there is one row only
constexpr int LATENCY = 8;      // independent accumulators that keep two multipliers busy
constexpr long BLOCK_FLOATS = 8192;  // of a panel in the nearest cache
constexpr long LEAST_BLOCK = 256;    // steps of depth, so that sums are not moved too often
constexpr long DOT_BLOCK = 1024;
constexpr long SHALLOW = 10;  // up to this depth most of the time goes into writing

typedef float Vector __attribute__((vector_size(4 * LANES)));
typedef float Loose __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

inline Vector load(const float *p) { return *reinterpret_cast<const Loose *>(p); }
inline void store(float *p, Vector v) { *reinterpret_cast<Loose *>(p) = v; }
inline Vector splat(float x) { return x - Vector{}; }

inline void store_first(float *p, Vector v, long count) {
#if defined(__AVX512F__)
    _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << count) - 1), (__m512)v);
#else
    float all[LANES];
    store(all, v);
    for (long i = 0; i < count; ++i) p[i] = all[i];
#endif
}

inline Vector load_first(const float *p, long count) {
#if defined(__AVX512F__)
    return (Vector)_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << count) - 1), p);
#else
    float all[LANES] = {};
    for (long i = 0; i < count; ++i) all[i] = p[i];
    return load(all);
#endif
}

inline float sum(Vector v) {
    typedef float Four __attribute__((vector_size(16), aligned(4), may_alias));
    float all[LANES];
    store(all, v);
    Four total = *reinterpret_cast<const Four *>(all);
    SEPDEPLOY_UNROLL
    for (int i = 4; i < LANES; i += 4) total += *reinterpret_cast<const Four *>(all + i);
    return (total[0] + total[1]) + (total[2] + total[3]);
}

}  // namespace
}  // namespace SEPDEPLOY_SET
}  // namespace sepdeploy
