// Up to six rows times one panel of 64 outputs, all of k in registers.
//
// Every output is one chain of fused multiply-adds over k from 0 on, whatever the number of rows, the panel's width
// and the number of threads: the bits of a row depend on the row and the weights alone.
//
// There are no prefetches: the next panel, or the same one further on, fetched while a tile is computed, was slower for
// few rows and no faster for many.
#pragma once

#include "pack.h"

constexpr int MAX_ROWS = 6;

// one step in k: `x(r)` is what row r brings to every lane
template <int ROWS, int VECTORS, typename X>
inline __attribute__((always_inline)) void step(const float* w, X x, __m512 (&sum)[ROWS][VECTORS]) {
#pragma GCC unroll 6
  for (int r = 0; r < ROWS; ++r) {
    const __m512 all = _mm512_set1_ps(x(r));
#pragma GCC unroll 4
    for (int v = 0; v < VECTORS; ++v) sum[r][v] = _mm512_fmadd_ps(all, _mm512_loadu_ps(w + v * LANES), sum[r][v]);
  }
}

#ifdef __AVX512BF16__
template <int ROWS, int VECTORS, typename X>
inline __attribute__((always_inline)) void step(const bf16* w, X x, __m512 (&sum)[ROWS][VECTORS]) {
#pragma GCC unroll 6
  for (int r = 0; r < ROWS; ++r) {
    const __m512bh all = (__m512bh)_mm512_set1_epi32(x(r));
#pragma GCC unroll 4
    for (int v = 0; v < VECTORS; ++v)
      sum[r][v] = _mm512_dpbf16_ps(sum[r][v], all, (__m512bh)_mm512_loadu_si512(w + v * 2 * LANES));
  }
}
#endif

inline float unit(const float* x) { return *x; }

inline int32_t unit(const bf16* x) {
  int32_t pair;
  std::memcpy(&pair, x, sizeof pair);
  return pair;
}

// out[r * PANEL + n] = sum over k of rows[r][k] * panel(k, n)
template <int ROWS, int VECTORS, typename T>
void tile(const T* const* rows, const T* panel, int64_t k, float* out) {
  constexpr int64_t WIDTH = VECTORS * LANES * PER_UNIT<T>;
  __m512 sum[ROWS][VECTORS] = {};
  const T* row[ROWS];
  std::copy(rows, rows + ROWS, row);
  const int64_t whole = k / PER_UNIT<T>;
  for (int64_t i = 0; i < whole; ++i, panel += WIDTH)
    step<ROWS, VECTORS>(panel, [&](int r) { return unit(row[r] + i * PER_UNIT<T>); }, sum);
  // beyond an odd k lies another row, or nothing
  if constexpr (PER_UNIT<T> == 2)
    if (k % 2) step<ROWS, VECTORS>(panel, [&](int r) { return int32_t(row[r][k - 1]); }, sum);
#pragma GCC unroll 6
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < VECTORS; ++v) _mm512_storeu_ps(out + r * PANEL + v * LANES, sum[r][v]);
}

template <typename T>
using Tile = void (*)(const T* const*, const T*, int64_t, float*);

// TILES<T>[rows - 1][vectors - 1]
template <typename T>
constexpr Tile<T> TILES[MAX_ROWS][4] = {
    {tile<1, 1>, tile<1, 2>, tile<1, 3>, tile<1, 4>}, {tile<2, 1>, tile<2, 2>, tile<2, 3>, tile<2, 4>},
    {tile<3, 1>, tile<3, 2>, tile<3, 3>, tile<3, 4>}, {tile<4, 1>, tile<4, 2>, tile<4, 3>, tile<4, 4>},
    {tile<5, 1>, tile<5, 2>, tile<5, 3>, tile<5, 4>}, {tile<6, 1>, tile<6, 2>, tile<6, 3>, tile<6, 4>},
};

// calls done(first row, number of rows, their outputs [rows, PANEL]) for evenly cut blocks of all rows
template <typename T, typename Done>
void rows_times_panel(const T* const* rows, int64_t num_rows, const T* panel, int vectors, int64_t k, Done done) {
  alignas(64) float out[MAX_ROWS * PANEL];
  int64_t blocks = ceil_div(num_rows, MAX_ROWS);
  for (int64_t first = 0; first < num_rows; --blocks) {
    const int64_t size = ceil_div(num_rows - first, blocks);
    TILES<T>[size - 1][vectors - 1](rows + first, panel, k, out);
    done(first, size, out);
    first += size;
  }
}
