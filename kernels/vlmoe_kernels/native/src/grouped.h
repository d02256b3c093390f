// Matrices applied to rows, each group of rows by its own matrix; and the feed-forward layer of two such products.
#pragma once

#include <vector>

#include "norm.h"
#include "threads.h"
#include "tile.h"
#include "workspace.h"

// rows of one task: their pointers stay on the stack, and their inputs in the second-level cache
constexpr int64_t MAX_SEGMENT = 384;

// Groups of matrices [num_outputs, k], packed; bias: one float an output, or null.
struct Matrices {
  int64_t num_outputs, k;
  const void* const* panels;
  const float* const* bias;
};

// plan.py's RoutePlan; slots [tokens, choices]; gates: null for 1.
struct Plan {
  int64_t num_tokens, num_rows, num_choices, num_groups, complete;
  const int64_t *order, *sizes, *slots;
  const float* gates;
};

struct Segment {
  int64_t group, first, size;
};

inline std::vector<Segment> segments_of(int64_t num_groups, const int64_t* sizes) {
  std::vector<Segment> segments;
  int64_t first = 0;
  for (int64_t group = 0; group < num_groups; ++group)
    for (int64_t left = sizes[group]; left > 0;) {
      const int64_t size = std::min(left, MAX_SEGMENT);
      segments.push_back({group, first, size});
      first += size;
      left -= size;
    }
  return segments;
}

// row_of(row) is where a row lies; done(group, row, first output, number of outputs, sums of the products)
template <typename T, typename RowOf, typename Done>
void multiply(const std::vector<Segment>& segments, const Matrices& w, int64_t num_threads, RowOf row_of, Done done) {
  int64_t num_rows = 0;
  for (const Segment& segment : segments) num_rows += segment.size;
  const int64_t num_panels = ceil_div(w.num_outputs, PANEL);
  // neighbouring panels follow each other in memory; but there must be tasks enough for all threads
  const int64_t all_panels = int64_t(segments.size()) * num_panels;
  const int64_t per_task = std::clamp<int64_t>(all_panels / (8 * num_threads), 1, 8);
  const int64_t tasks_each = ceil_div(num_panels, per_task);

  parallel(num_threads, int64_t(segments.size()) * tasks_each, num_rows * w.num_outputs * w.k, [&](int64_t task) {
    const Segment& segment = segments[size_t(task / tasks_each)];
    const T* rows[MAX_SEGMENT];
    for (int64_t i = 0; i < segment.size; ++i) rows[i] = row_of(segment.first + i);
    const T* panels = static_cast<const T*>(w.panels[segment.group]);
    const int64_t begin = task % tasks_each * per_task;
    for (int64_t p = begin; p < std::min(begin + per_task, num_panels); ++p) {
      const int64_t n = p * PANEL;
      const int64_t width = std::min(PANEL, w.num_outputs - n);
      const int vectors = panel_vectors(w.num_outputs, n);
      const T* panel = panels + p * panel_stride<T>(w.k);
      const auto each = [&](int64_t first, int64_t size, const float* sums) {
        for (int64_t r = 0; r < size; ++r)
          done(segment.group, segment.first + first + r, n, width, sums + r * PANEL);
      };
      if (is_streaming(segment.size, vectors, MAX_STREAMING_ROWS))
        rows_times_stream<T>(rows, segment.size, panel, w.k, each);
      else
        rows_times_panel<T>(rows, segment.size, panel, vectors, w.k, each);
    }
  });
}

// to[i] = map(sums[i] + bias[i])
template <typename T, typename Map>
void finish(const float* sums, const float* bias, int64_t width, T* to, Map map) {
  for (int64_t i = 0; i < width; i += LANES) {
    const __mmask16 lanes = first_lanes(width - i);
    __m512 x = _mm512_loadu_ps(sums + i);
    if (bias != nullptr) x = _mm512_add_ps(x, load(bias + i, lanes));
    store(to + i, map(x), lanes);
  }
}

// the last product of a routed layer: gated rows go back to their tokens, those of one token are summed in the order of
// its choices. Every step is rounded to T, as in `eager.combine`: rows that another rank computed come out the same
template <typename T, typename RowOf>
void multiply_and_combine(const std::vector<Segment>& segments, const Matrices& w, const Plan& plan,
                          int64_t num_threads, Workspace& space, RowOf row_of, T* out) {
  const int64_t width = w.num_outputs;
  const auto finish_row = [&](int64_t group, int64_t row, int64_t n, int64_t size, const float* sums, T* to) {
    const float* bias = w.bias == nullptr ? nullptr : w.bias[group] + n;
    if (plan.gates == nullptr)
      finish(sums, bias, size, to + n, [](__m512 x) { return x; });
    else
      finish(sums, bias, size, to + n, [gate = _mm512_set1_ps(plan.gates[row])](__m512 x) {
        return _mm512_mul_ps(rounded<T>(x), gate);
      });
  };
  if (plan.complete) {
    multiply<T>(segments, w, num_threads, row_of,
                [&](int64_t group, int64_t row, int64_t n, int64_t size, const float* sums) {
                  finish_row(group, row, n, size, sums, out + plan.order[row] * width);
                });
    return;
  }
  T* y = space.get<T>(plan.num_rows * width);
  multiply<T>(segments, w, num_threads, row_of,
              [&](int64_t group, int64_t row, int64_t n, int64_t size, const float* sums) {
                finish_row(group, row, n, size, sums, y + row * width);
              });
  constexpr int64_t TOKENS = 64;
  const int64_t work = plan.num_tokens * plan.num_choices * width;
  parallel(num_threads, ceil_div(plan.num_tokens, TOKENS), work, [&](int64_t task) {
    for (int64_t t = task * TOKENS; t < std::min((task + 1) * TOKENS, plan.num_tokens); ++t)
      for (int64_t n = 0; n < width; n += LANES) {
        const __mmask16 lanes = first_lanes(width - n);
        const auto choice = [&](int64_t c) {
          const int64_t row = plan.slots[t * plan.num_choices + c];
          return row < 0 ? _mm512_setzero_ps() : load(y + row * width + n, lanes);
        };
        __m512 sum = choice(0);
        for (int64_t c = 1; c < plan.num_choices; ++c) sum = rounded<T>(_mm512_add_ps(sum, choice(c)));
        store(out + t * width + n, sum, lanes);
      }
  });
}

// mid_weight, mid_bias: of the LayerNorm between the products, or null, as all of a group's are.
// x_row(token): where a token lies
template <typename T, typename XRow>
void feed_forward(XRow x_row, const Matrices& up, const Matrices& down, const float* const* mid_weight,
                  const float* const* mid_bias, float eps, const Plan& plan, int64_t num_threads, T* out) {
  static thread_local Workspace hidden_space, out_space;
  const int64_t hidden = up.num_outputs;
  T* h = hidden_space.get<T>(plan.num_rows * hidden);
  const std::vector<Segment> segments = segments_of(plan.num_groups, plan.sizes);
  multiply<T>(
      segments, up, num_threads, [&](int64_t row) { return x_row(plan.order[row]); },
      [&](int64_t group, int64_t row, int64_t n, int64_t size, const float* sums) {
        finish(sums, up.bias[group] + n, size, h + row * hidden + n, gelu);
      });
  if (mid_weight != nullptr)
    parallel(num_threads, int64_t(segments.size()), plan.num_rows * hidden * 8, [&](int64_t task) {
      const Segment& segment = segments[size_t(task)];
      for (int64_t row = segment.first; row < segment.first + segment.size; ++row)
        layer_norm(h + row * hidden, hidden, mid_weight[segment.group], mid_bias[segment.group], eps);
    });
  multiply_and_combine<T>(
      segments, down, plan, num_threads, out_space, [&](int64_t row) { return h + row * hidden; }, out);
}

template <typename T>
void grouped_linear(const T* x, int64_t stride, const Matrices& w, const Plan& plan, int64_t num_threads, T* out) {
  static thread_local Workspace out_space;
  multiply_and_combine<T>(
      segments_of(plan.num_groups, plan.sizes), w, plan, num_threads, out_space,
      [&](int64_t row) { return x + plan.order[row] * stride; }, out);
}

template <typename T>
void linear(const T* x, int64_t stride, int64_t num_rows, const Matrices& w, int64_t num_threads, T* out) {
  multiply<T>(
      segments_of(1, &num_rows), w, num_threads, [&](int64_t row) { return x + row * stride; },
      [&](int64_t, int64_t row, int64_t n, int64_t size, const float* sums) {
        finish(sums, w.bias == nullptr ? nullptr : w.bias[0] + n, size, out + row * w.num_outputs + n,
               [](__m512 y) { return y; });
      });
}
