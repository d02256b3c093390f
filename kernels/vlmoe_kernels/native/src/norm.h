// LayerNorm of rows, alone or behind a sum. A row is one task's, so its bits depend on the row alone.
#pragma once

#include "simd.h"
#include "threads.h"

// put(i, lanes, y) with y the normed vector of get(i, lanes), for each vector of a row; get is called three times
template <typename Get, typename Put>
void normalise(int64_t width, const float* weight, const float* bias, float eps, Get get, Put put) {
  __m512 sum = _mm512_setzero_ps(), squares = _mm512_setzero_ps();
  for (int64_t i = 0; i < width; i += LANES) sum = _mm512_add_ps(sum, get(i, first_lanes(width - i)));
  const __m512 mean = _mm512_set1_ps(_mm512_reduce_add_ps(sum) / float(width));
  for (int64_t i = 0; i < width; i += LANES) {
    const __mmask16 lanes = first_lanes(width - i);
    const __m512 d = _mm512_maskz_sub_ps(lanes, get(i, lanes), mean);
    squares = _mm512_fmadd_ps(d, d, squares);
  }
  const __m512 scale =
      _mm512_div_ps(_mm512_set1_ps(1.0f), _mm512_sqrt_ps(_mm512_set1_ps(_mm512_reduce_add_ps(squares) / float(width) + eps)));
  for (int64_t i = 0; i < width; i += LANES) {
    const __mmask16 lanes = first_lanes(width - i);
    const __m512 normed = _mm512_mul_ps(_mm512_sub_ps(get(i, lanes), mean), scale);
    put(i, lanes, _mm512_fmadd_ps(normed, load(weight + i, lanes), load(bias + i, lanes)));
  }
}

// LayerNorm of one row in place
template <typename T>
void layer_norm(T* x, int64_t width, const float* weight, const float* bias, float eps) {
  normalise(
      width, weight, bias, eps, [&](int64_t i, __mmask16 lanes) { return load(x + i, lanes); },
      [&](int64_t i, __mmask16 lanes, __m512 y) { store(x + i, y, lanes); });
}

// x += y, then out = LayerNorm(x) by the weight and bias of each row's group; y: dense, or null; groups: null for 0;
// exact: the same before it is rounded, or null
template <typename Y, typename T>
void add_norm(float* x, const Y* y, int64_t num_rows, int64_t width, const int64_t* groups, const float* const* weight,
              const float* const* bias, float eps, float* exact, int64_t num_threads, T* out) {
  constexpr int64_t ROWS = 16;
  // the sums, the mean, the squares and the scaling, a few instructions each
  const int64_t work = num_rows * width * 8;
  parallel(num_threads, (num_rows + ROWS - 1) / ROWS, work, [&](int64_t task) {
    for (int64_t row = task * ROWS; row < std::min((task + 1) * ROWS, num_rows); ++row) {
      float* sum = x + row * width;
      if (y != nullptr)
        for (int64_t i = 0; i < width; i += LANES) {
          const __mmask16 lanes = first_lanes(width - i);
          store(sum + i, _mm512_add_ps(load(sum + i, lanes), load(y + row * width + i, lanes)), lanes);
        }
      const int64_t group = groups == nullptr ? 0 : groups[row];
      normalise(
          width, weight[group], bias[group], eps, [&](int64_t i, __mmask16 lanes) { return load(sum + i, lanes); },
          [&](int64_t i, __mmask16 lanes, __m512 normed) {
            store(out + row * width + i, normed, lanes);
            if (exact != nullptr) store(exact + row * width + i, normed, lanes);
          });
    }
  });
}
