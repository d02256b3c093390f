// The grouped feed-forward with int8 weights: products of bytes in integers, so their order does not matter at all.
//
//   x -> bytes, scale and zero of its row -> product -> scales, bias, GELU -> (LayerNorm) -> bytes again -> product -> gate
//
// A row is x = scale * (byte - zero), bytes from 0 to 255, with the scale of that row alone; an output of a product has
// one scale and weights from -128 to 127. Needs AVX512_VNNI, which is asked for function by function: the library is
// also for processors without.
#pragma once

#include "training.h"

#define VNNI __attribute__((target("avx512vnni")))

// Packed matrices [num_outputs, k] of every group; scale, sum (of the weights): one an output.
struct Int8Matrices {
  int64_t num_outputs, k;
  const int8_t* const* panels;
  const float *const *scale, *const *bias;
  const int32_t* const* sum;
};

// of one row of bytes
struct RowScale {
  float scale;
  int32_t zero;
};

// bytes from one row to the next: whole units
inline int64_t byte_stride(int64_t width) { return ceil_div(width, 4 * LANES) * 4 * LANES; }

// 0 is a byte exactly; the rest of the last unit becomes `zero` too, where weights are zeros
template <typename T>
RowScale to_bytes(const T* x, int64_t width, uint8_t* to) {
  __m512 low = _mm512_setzero_ps(), high = low;
  for (int64_t i = 0; i < width; i += LANES) {
    const __m512 v = load(x + i, first_lanes(width - i));
    low = _mm512_min_ps(low, v);
    high = _mm512_max_ps(high, v);
  }
  const float least = _mm512_reduce_min_ps(low), range = _mm512_reduce_max_ps(high) - least;
  const float scale = std::max(range, 1e-30f) / 255.0f;
  const __m512 factor = _mm512_set1_ps(1.0f / scale);
  const __m512i zero = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_set1_ps(-least), factor));
  for (int64_t i = 0; i < byte_stride(width); i += LANES) {
    const __m512 v = load(x + i, i < width ? first_lanes(width - i) : __mmask16(0));
    __m512i q = _mm512_add_epi32(_mm512_cvtps_epi32(_mm512_mul_ps(v, factor)), zero);
    q = _mm512_max_epi32(q, _mm512_setzero_si512());
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + i), _mm512_cvtusepi32_epi8(q));
  }
  return {scale, _mm_cvtsi128_si32(_mm512_castsi512_si128(zero))};
}

// as `tile`, of bytes and in whole units: out[r * PANEL + n] = sum over units of rows[r][from + unit] * panel(unit, n)
template <int ROWS, int VECTORS, int LINES>
VNNI void int8_tile(const uint8_t* const* rows, int64_t from, const int8_t* panel, int64_t units, const char* ahead,
                    int32_t* out) {
  __m512i sum[ROWS][VECTORS] = {};
  if (from > 0)
#pragma GCC unroll 7
    for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
      for (int v = 0; v < VECTORS; ++v) sum[r][v] = _mm512_loadu_si512(out + r * PANEL + v * LANES);
  const uint8_t* row[ROWS];
  for (int r = 0; r < ROWS; ++r) row[r] = rows[r] + 4 * from;
  for (int64_t i = 0; i < units; ++i, panel += VECTORS * 4 * LANES, ahead += LINES * LINE) {
#pragma GCC unroll 2
    for (int line = 0; line < LINES; ++line) _mm_prefetch(ahead + line * LINE, _MM_HINT_T1);
#pragma GCC unroll 7
    for (int r = 0; r < ROWS; ++r) {
      int32_t four;
      std::memcpy(&four, row[r] + 4 * i, sizeof four);
      const __m512i all = _mm512_set1_epi32(four);
#pragma GCC unroll 4
      for (int v = 0; v < VECTORS; ++v) {
        const int8_t* w = panel + v * 4 * LANES;
        if (from_cache(ROWS, VECTORS, v))
          asm("vpdpbusd %2, %1, %0" : "+v"(sum[r][v]) : "v"(all), "m"(*reinterpret_cast<const __m512i_u*>(w)));
        else
          sum[r][v] = _mm512_dpbusd_epi32(sum[r][v], all, _mm512_loadu_si512(w));
      }
    }
  }
#pragma GCC unroll 7
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < VECTORS; ++v) _mm512_storeu_si512(out + r * PANEL + v * LANES, sum[r][v]);
}

using Int8Tile = void (*)(const uint8_t* const*, int64_t, const int8_t*, int64_t, const char*, int32_t*);

template <int ROWS>
constexpr Int8Tile INT8_TILES_OF[4] = {int8_tile<ROWS, 1, 0>, int8_tile<ROWS, 2, 0>, int8_tile<ROWS, 3, 0>,
                                       int8_tile<ROWS, 4, 0>};

constexpr const Int8Tile* INT8_TILES[MAX_ROWS] = {INT8_TILES_OF<1>, INT8_TILES_OF<2>, INT8_TILES_OF<3>, INT8_TILES_OF<4>,
                                                  INT8_TILES_OF<5>, INT8_TILES_OF<6>, INT8_TILES_OF<7>};

// as STREAMING_TILES
template <int ROWS>
constexpr Int8Tile INT8_STREAMING_TILES_OF[3] = {int8_tile<ROWS, 4, 0>, int8_tile<ROWS, 4, 1>, int8_tile<ROWS, 4, 2>};

constexpr const Int8Tile* INT8_STREAMING_TILES[MAX_ROWS] = {
    INT8_STREAMING_TILES_OF<1>, INT8_STREAMING_TILES_OF<2>, INT8_STREAMING_TILES_OF<3>, INT8_STREAMING_TILES_OF<4>,
    INT8_STREAMING_TILES_OF<5>, INT8_STREAMING_TILES_OF<6>, INT8_STREAMING_TILES_OF<7>};

// half the bytes are half the time to hide: with more blocks, panels that are awaited cost less than chunks
constexpr int64_t MAX_INT8_STREAMING_ROWS = 4 * MAX_ROWS;

// as `multiply`, with outputs in floats: done(group, row, first output, number of outputs, outputs with their bias)
template <typename RowOf, typename ScaleOf, typename Done>
void int8_multiply(const std::vector<Segment>& segments, const Int8Matrices& w, int64_t num_threads, RowOf row_of,
                   ScaleOf scale_of, Done done) {
  int64_t num_rows = 0;
  for (const Segment& segment : segments) num_rows += segment.size;
  const int64_t num_panels = ceil_div(w.num_outputs, PANEL), units = num_units<int8_t>(w.k);
  const int64_t all_panels = int64_t(segments.size()) * num_panels;
  const int64_t per_task = std::clamp<int64_t>(all_panels / (8 * num_threads), 1, 8);
  const int64_t tasks_each = ceil_div(num_panels, per_task);

  parallel(num_threads, int64_t(segments.size()) * tasks_each, num_rows * w.num_outputs * w.k, [&](int64_t task) {
    const Segment& segment = segments[size_t(task / tasks_each)];
    const uint8_t* rows[MAX_SEGMENT];
    for (int64_t i = 0; i < segment.size; ++i) rows[i] = row_of(segment.first + i);
    const int64_t begin = task % tasks_each * per_task;
    for (int64_t p = begin; p < std::min(begin + per_task, num_panels); ++p) {
      const int64_t n = p * PANEL, width = std::min(PANEL, w.num_outputs - n);
      const int vectors = panel_vectors(w.num_outputs, n);
      const int8_t* panel = w.panels[segment.group] + p * panel_stride<int8_t>(w.k);
      alignas(64) int32_t sums[MAX_INT8_STREAMING_ROWS * PANEL];
      const auto finish_rows = [&](int64_t first, int64_t size) {
        alignas(64) float y[PANEL];
        for (int64_t r = 0; r < size; ++r) {
          const int64_t row = segment.first + first + r;
          const RowScale of_row = scale_of(row);
          const __m512i zero = _mm512_set1_epi32(of_row.zero);
          const __m512 scale = _mm512_set1_ps(of_row.scale);
          for (int64_t i = 0; i < width; i += LANES) {
            const __mmask16 lanes = first_lanes(width - i);
            const __m512i sum = _mm512_maskz_loadu_epi32(lanes, w.sum[segment.group] + n + i);
            const __m512i exact = _mm512_sub_epi32(_mm512_load_si512(sums + r * PANEL + i), _mm512_mullo_epi32(zero, sum));
            const __m512 scales = _mm512_mul_ps(scale, load(w.scale[segment.group] + n + i, lanes));
            _mm512_store_ps(y + i, _mm512_fmadd_ps(_mm512_cvtepi32_ps(exact), scales,
                                                   load(w.bias[segment.group] + n + i, lanes)));
          }
          done(segment.group, row, n, width, y);
        }
      };
      if (is_streaming(segment.size, vectors, MAX_INT8_STREAMING_ROWS)) {
        each_chunk(segment.size, units, panel,
                   [&](int64_t first, int64_t size, int64_t step, int64_t num_steps, int lines, const char* ahead) {
                     INT8_STREAMING_TILES[size - 1][lines](rows + first, step, panel + step * 4 * PANEL, num_steps, ahead,
                                                           sums + first * PANEL);
                   });
        finish_rows(0, segment.size);
      } else {
        each_block(segment.size, [&](int64_t first, int64_t size) {
          INT8_TILES[size - 1][vectors - 1](rows + first, 0, panel, units, nullptr, sums);
          finish_rows(first, size);
        });
      }
    }
  });
}

// x_row, out: as in `feed_forward`; between the products T as well
template <typename T, typename XRow>
void int8_feed_forward(XRow x_row, const Int8Matrices& up, const Int8Matrices& down,
                       const float* const* mid_weight, const float* const* mid_bias, float eps, const Plan& plan,
                       int64_t num_threads, T* out) {
  static thread_local Workspace byte_space, scale_space, hidden_space, out_space;
  const int64_t dim = up.k, hidden = up.num_outputs, x_stride = byte_stride(dim), h_stride = byte_stride(hidden);
  constexpr int64_t ROWS = 16;
  uint8_t* bytes = byte_space.get<uint8_t>(std::max(plan.num_tokens * x_stride, plan.num_rows * h_stride));
  RowScale* scales = scale_space.get<RowScale>(std::max(plan.num_tokens, plan.num_rows));
  T* h = hidden_space.get<T>(plan.num_rows * hidden);
  const std::vector<Segment> segments = segments_of(plan.num_groups, plan.sizes);

  parallel(num_threads, ceil_div(plan.num_tokens, ROWS), plan.num_tokens * dim * 4, [&](int64_t task) {
    for (int64_t t = task * ROWS; t < std::min((task + 1) * ROWS, plan.num_tokens); ++t)
      scales[t] = to_bytes(x_row(t), dim, bytes + t * x_stride);
  });
  int8_multiply(
      segments, up, num_threads, [&](int64_t row) { return bytes + plan.order[row] * x_stride; },
      [&](int64_t row) { return scales[plan.order[row]]; },
      [&](int64_t, int64_t row, int64_t n, int64_t width, const float* y) {
        finish(y, nullptr, width, h + row * hidden + n, gelu);
      });
  // the rows of an expert one behind the other: the group of a row is that of its segment
  parallel(num_threads, int64_t(segments.size()), plan.num_rows * hidden * 4, [&](int64_t task) {
    const Segment& s = segments[size_t(task)];
    for (int64_t row = s.first; row < s.first + s.size; ++row) {
      T* of_row = h + row * hidden;
      if (mid_weight != nullptr) layer_norm(of_row, hidden, mid_weight[s.group], mid_bias[s.group], eps);
      scales[row] = to_bytes(of_row, hidden, bytes + row * h_stride);
    }
  });
  T* y_rows = plan.complete ? nullptr : out_space.get<T>(plan.num_rows * dim);
  int8_multiply(
      segments, down, num_threads, [&](int64_t row) { return bytes + row * h_stride; },
      [&](int64_t row) { return scales[row]; },
      [&](int64_t, int64_t row, int64_t n, int64_t width, const float* y) {
        T* to = (plan.complete ? out + plan.order[row] * dim : y_rows + row * dim) + n;
        if (plan.gates == nullptr)
          finish(y, nullptr, width, to, [](__m512 v) { return v; });
        else
          finish(y, nullptr, width, to, [gate = _mm512_set1_ps(plan.gates[row])](__m512 v) {
            return _mm512_mul_ps(rounded<T>(v), gate);
          });
      });
  if (!plan.complete) sum_choices(y_rows, plan, dim, num_threads, out);
}
