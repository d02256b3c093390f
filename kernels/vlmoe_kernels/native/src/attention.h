// Attention inside each of many sequences of any length, one task a (sequence, head).
//
// Keys and values are packed like weights; a block of queries has all its logits at once, so the softmax is the plain
// one. The exponentials go into the second product as T, and are divided by their sum afterwards.
#pragma once

#include <limits>
#include <vector>

#include "threads.h"
#include "tile.h"
#include "workspace.h"

// where a tensor [tokens, heads, width] lies; the width is dense
struct Strides {
  int64_t token, head;
};

struct Sequences {
  int64_t num_sequences, length;
  // [heads, length, length], or null
  const float* bias;
};

// logits of that many queries at a time, at most: they stay in the first-level cache
constexpr int64_t QUERIES = 24;

template <typename T>
struct HeadTask {
  const T *q, *k, *v;
  const float* bias;
  T* out;
  int64_t length, q_stride, k_stride, v_stride, out_stride;
};

// run(i, lanes) for every vector of a row; all but the last are whole, and the compiler knows
template <typename Run>
inline void each_vector(int64_t length, Run run) {
  int64_t i = 0;
  for (; i + LANES <= length; i += LANES) run(i, __mmask16(0xffff));
  if (i < length) run(i, first_lanes(length - i));
}

constexpr float LOG2_E = 1.44269504f;

// the logits of one query and a panel of keys from n on, times log2(e): they are for powers of two; returns the highest
inline __m512 scaled_logits(const float* sums, const float* bias, int64_t n, int64_t length, float factor,
                            __m512 highest, float* logits) {
  each_vector(std::min(PANEL, length - n), [&](int64_t i, __mmask16 lanes) {
    __m512 x = _mm512_mul_ps(_mm512_loadu_ps(sums + i), _mm512_set1_ps(factor));
    if (bias != nullptr) x = _mm512_fmadd_ps(load(bias + n + i, lanes), _mm512_set1_ps(LOG2_E), x);
    highest = _mm512_mask_max_ps(highest, lanes, highest, x);
    store(logits + n + i, x, lanes);
  });
  return highest;
}

// weights[i] = 2^(logits[i] - highest) as T; returns their sum as floats
template <typename T>
float exponentials(const float* logits, __m512 highest, int64_t length, T* weights) {
  const __m512 maximum = _mm512_set1_ps(_mm512_reduce_max_ps(highest));
  __m512 sum = _mm512_setzero_ps();
  each_vector(length, [&](int64_t i, __mmask16 lanes) {
    const __m512 e = exp2<T>(_mm512_sub_ps(load(logits + i, lanes), maximum));
    sum = _mm512_mask_add_ps(sum, lanes, sum, e);
    store(weights + i, e, lanes);
  });
  return _mm512_reduce_add_ps(sum);
}

template <typename T>
void attend(const HeadTask<T>& task, int64_t width, float scale) {
  static thread_local Workspace key_space, value_space, logit_space, weight_space;
  const int64_t length = task.length;
  // whole vectors, and never a multiple of a page: rows would share their cache lines' sets
  const int64_t row = ceil_div(length, LANES) * LANES + LANES;
  T* keys = key_space.get<T>(packed_elements<T>(length, width));
  T* values = value_space.get<T>(packed_elements<T>(width, length));
  float* logits = logit_space.get<float>(QUERIES * row);
  T* weights = weight_space.get<T>(QUERIES * row);
  for (int64_t n = 0; n < length; n += PANEL)
    pack_panel(task.k + n * task.k_stride, task.k_stride, std::min(PANEL, length - n), width,
               keys + n / PANEL * panel_stride<T>(width));
  for (int64_t n = 0; n < width; n += PANEL)
    pack_columns(task.v + n, task.v_stride, std::min(PANEL, width - n), length,
                 values + n / PANEL * panel_stride<T>(length));

  const float factor = scale * LOG2_E;
  // evenly cut: few rows cost a tile almost as much as many
  int64_t blocks = ceil_div(length, QUERIES);
  for (int64_t begin = 0, num_queries; begin < length; begin += num_queries, --blocks) {
    num_queries = ceil_div(length - begin, blocks);
    const auto bias_row = [&](int64_t i) { return task.bias == nullptr ? nullptr : task.bias + (begin + i) * length; };
    const T *queries[QUERIES], *weight_rows[QUERIES];
    __m512 highest[QUERIES];
    float inverse[QUERIES];
    for (int64_t i = 0; i < num_queries; ++i) {
      queries[i] = task.q + (begin + i) * task.q_stride;
      weight_rows[i] = weights + i * row;
      highest[i] = _mm512_set1_ps(-std::numeric_limits<float>::infinity());
    }
    for (int64_t n = 0; n < length; n += PANEL) {
      const int vectors = panel_vectors(length, n);
      rows_times_panel<T>(queries, num_queries, keys + n / PANEL * panel_stride<T>(width), vectors, width,
                          [&](int64_t first, int64_t size, const float* sums) {
                            for (int64_t i = first; i < first + size; ++i, sums += PANEL)
                              highest[i] = scaled_logits(sums, bias_row(i), n, length, factor, highest[i],
                                                         logits + i * row);
                          });
    }
    for (int64_t i = 0; i < num_queries; ++i)
      inverse[i] = 1.0f / exponentials(logits + i * row, highest[i], length, weights + i * row);
    for (int64_t n = 0; n < width; n += PANEL) {
      const int64_t size_n = std::min(PANEL, width - n);
      rows_times_panel<T>(weight_rows, num_queries, values + n / PANEL * panel_stride<T>(length),
                          panel_vectors(width, n), length, [&](int64_t first, int64_t size, const float* sums) {
                            for (int64_t r = 0; r < size; ++r) {
                              T* to = task.out + (begin + first + r) * task.out_stride + n;
                              const __m512 share = _mm512_set1_ps(inverse[first + r]);
                              for (int64_t i = 0; i < size_n; i += LANES)
                                store(to + i, _mm512_mul_ps(_mm512_loadu_ps(sums + r * PANEL + i), share),
                                      first_lanes(size_n - i));
                            }
                          });
    }
  }
}

// out: dense [tokens, heads, width]
template <typename T>
void attention(const T* q, const T* k, const T* v, const Strides (&strides)[3], const Sequences* runs,
               int64_t num_runs, int64_t num_heads, int64_t width, float scale, int64_t num_threads, T* out) {
  struct Sequence {
    int64_t start, length;
    const float* bias;
  };
  std::vector<Sequence> sequences;
  int64_t start = 0, work = 0;
  for (int64_t i = 0; i < num_runs; ++i)
    for (int64_t j = 0; j < runs[i].num_sequences; ++j) {
      sequences.push_back({start, runs[i].length, runs[i].bias});
      start += runs[i].length;
      work += 2 * runs[i].length * runs[i].length * width * num_heads;
    }
  parallel(num_threads, int64_t(sequences.size()) * num_heads, work, [&](int64_t task) {
    const Sequence& sequence = sequences[size_t(task / num_heads)];
    const int64_t head = task % num_heads;
    const auto at = [&](auto* x, const Strides& s) { return x + sequence.start * s.token + head * s.head; };
    const float* bias =
        sequence.bias == nullptr ? nullptr : sequence.bias + head * sequence.length * sequence.length;
    attend<T>({at(q, strides[0]), at(k, strides[1]), at(v, strides[2]), bias,
               at(out, {num_heads * width, width}), sequence.length, strides[0].token, strides[1].token,
               strides[2].token, num_heads * width},
              width, scale);
  });
}
