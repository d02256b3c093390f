// The grouped feed-forward in training: forward keeps what stands before the GELU, backward computes the rest again.
//
//   u = x W1^T + b1 -> h = gelu(u) -> n = LayerNorm(h), or h -> y = gate * (n W2^T + b2) -> sum of a token's choices
//
// Weights are float32 and change at every step, so a task packs the panels it needs, rounded to T, and multiplies them
// with its rows at once: no packed copy exists. A weight gradient is a product over the rows of a group, in their order,
// with sums in float32. So, as in inference, bits depend neither on the number of threads nor on who takes which task.
#pragma once

#include <cstring>
#include <vector>

#include "grouped.h"

// weights of every group, float32, dense: w1 [hidden, dim], w2 [dim, hidden]; mid_*: null for no LayerNorm
struct Experts {
  int64_t dim, hidden;
  const float *const *w1, *const *b1, *const *w2, *const *b2, *const *mid_weight, *const *mid_bias;
  float eps;
};

// where the gradients of `Experts` go; null in w1 for a group that does not learn
struct ExpertGradients {
  float *const *w1, *const *b1, *const *w2, *const *b2, *const *mid_weight, *const *mid_bias;
};

// rows of one task: enough that packing costs little beside multiplying
constexpr int64_t TASK_ROWS = 1536;
// rows of a weight gradient's panel at a time, and bytes of panels that a task packs: both stay in the second-level cache
constexpr int64_t DEPTH = 1024;
constexpr int64_t PACKED_BYTES = 1 << 18;
// gradients larger than this are written past the caches
constexpr int64_t CACHED_BYTES = 1 << 24;
// columns of a task that walks down the rows
constexpr int64_t COLUMNS = 4 * LANES;

// x to T, element by element
template <typename T>
void convert(const float* x, int64_t width, T* to) {
  for (int64_t i = 0; i < width; i += LANES) store(to + i, load(x + i, first_lanes(width - i)), first_lanes(width - i));
}

// one panel of W from float32 rows: element (n, k) at w[n * stride + k]
template <typename T>
void pack_rows_of(const float* w, int64_t stride, int64_t num_outputs, int64_t k, T* panel) {
  if constexpr (PER_UNIT<T> == 1) {
    pack_panel(w, stride, num_outputs, k, panel);
  } else {
    static thread_local Workspace space;
    T* rounded_rows = space.get<T>(num_outputs * k);
    for (int64_t n = 0; n < num_outputs; ++n) convert(w + n * stride, k, rounded_rows + n * k);
    pack_panel(rounded_rows, k, num_outputs, k, panel);
  }
}

// one panel from float32 columns: element (n, k) at w[k * stride + n]
template <typename T>
void pack_columns_of(const float* w, int64_t stride, int64_t num_outputs, int64_t k, T* panel) {
  if constexpr (PER_UNIT<T> == 1) {
    pack_columns(w, stride, num_outputs, k, panel);
  } else {
    static thread_local Workspace space;
    T* rounded_rows = space.get<T>(k * PANEL);
    for (int64_t i = 0; i < k; ++i) convert(w + i * stride, num_outputs, rounded_rows + i * PANEL);
    pack_columns(rounded_rows, PANEL, num_outputs, k, panel);
  }
}

inline std::vector<int64_t> firsts_of(const Plan& plan) {
  std::vector<int64_t> firsts(size_t(plan.num_groups) + 1, 0);
  for (int64_t g = 0; g < plan.num_groups; ++g) firsts[size_t(g) + 1] = firsts[size_t(g)] + plan.sizes[g];
  return firsts;
}

// Rows of every group times its own matrix [num_outputs, k]. pack(group, first output, number of outputs, panel);
// row_of and done as in `multiply`.
template <typename T, typename Pack, typename RowOf, typename Done>
void multiply_packing(const Plan& plan, int64_t num_outputs, int64_t k, int64_t num_threads, Pack pack, RowOf row_of,
                      Done done) {
  struct Part {
    int64_t group, first, size, panel;
  };
  const int64_t num_panels = ceil_div(num_outputs, PANEL);
  int64_t per_task = std::clamp<int64_t>(PACKED_BYTES / (panel_stride<T>(k) * int64_t(sizeof(T))), 1, 8);
  int64_t num_blocks = 0;
  for (int64_t g = 0; g < plan.num_groups; ++g) num_blocks += ceil_div(plan.sizes[g], TASK_ROWS);
  per_task = std::min(per_task, std::max<int64_t>(1, num_blocks * num_panels / (8 * num_threads)));
  std::vector<Part> parts;
  int64_t first = 0;
  for (int64_t group = 0; group < plan.num_groups; first += plan.sizes[group++])
    for (int64_t begin = 0; begin < plan.sizes[group]; begin += TASK_ROWS)
      for (int64_t panel = 0; panel < num_panels; panel += per_task)
        parts.push_back({group, first + begin, std::min(TASK_ROWS, plan.sizes[group] - begin), panel});

  parallel(num_threads, int64_t(parts.size()), plan.num_rows * num_outputs * k, [&](int64_t task) {
    static thread_local Workspace space;
    const Part& part = parts[size_t(task)];
    const int64_t end = std::min(part.panel + per_task, num_panels);
    T* panels = space.get<T>((end - part.panel) * panel_stride<T>(k));
    const auto width_of = [&](int64_t p) { return std::min(PANEL, num_outputs - p * PANEL); };
    for (int64_t p = part.panel; p < end; ++p)
      pack(part.group, p * PANEL, width_of(p), panels + (p - part.panel) * panel_stride<T>(k));
    for (int64_t begin = 0; begin < part.size; begin += MAX_SEGMENT) {
      const int64_t size = std::min(MAX_SEGMENT, part.size - begin);
      const T* rows[MAX_SEGMENT];
      for (int64_t i = 0; i < size; ++i) rows[i] = row_of(part.first + begin + i);
      for (int64_t p = part.panel; p < end; ++p)
        rows_times_panel<T>(rows, size, panels + (p - part.panel) * panel_stride<T>(k),
                            panel_vectors(num_outputs, p * PANEL), k,
                            [&](int64_t at, int64_t num, const float* sums) {
                              for (int64_t r = 0; r < num; ++r)
                                done(part.group, part.first + begin + at + r, p * PANEL, width_of(p), sums + r * PANEL);
                            });
    }
  });
}

// out[token] = sum of its choices' rows of y, each step rounded to T
template <typename T>
void sum_choices(const T* y, const Plan& plan, int64_t width, int64_t num_threads, T* out) {
  constexpr int64_t TOKENS = 64;
  parallel(num_threads, ceil_div(plan.num_tokens, TOKENS), plan.num_tokens * plan.num_choices * width, [&](int64_t task) {
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

// GELU and its derivative, by the same series as `gelu`: Phi(v) + v phi(v)
struct GeluPair {
  __m512 value, slope;
};

inline GeluPair gelu_pair(__m512 v) {
  const __m512 one = _mm512_set1_ps(1.0f);
  const __m512 z = _mm512_mul_ps(_mm512_abs_ps(v), _mm512_set1_ps(0.707106781f));
  const __m512 t = _mm512_div_ps(one, _mm512_fmadd_ps(z, _mm512_set1_ps(0.3275911f), one));
  __m512 p = _mm512_set1_ps(1.061405429f);
  for (const float a : {-1.453152027f, 1.421413741f, -0.284496736f, 0.254829592f})
    p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(a));
  const __m512 e = exp(_mm512_fnmadd_ps(z, z, _mm512_setzero_ps()));
  const __m512 tail = _mm512_mul_ps(_mm512_mul_ps(_mm512_mul_ps(p, t), e), _mm512_set1_ps(0.5f));
  const __mmask16 positive = _mm512_cmp_ps_mask(v, _mm512_setzero_ps(), _CMP_GT_OQ);
  const __m512 below = _mm512_mul_ps(v, tail);
  const __m512 phi = _mm512_mul_ps(e, _mm512_set1_ps(0.398942280f));
  return {_mm512_mask_sub_ps(below, positive, v, below),
          _mm512_fmadd_ps(v, phi, _mm512_mask_sub_ps(tail, positive, one, tail))};
}

// u [rows, hidden] is kept for the backward; out [tokens, dim]
template <typename T>
void learning_forward(const T* x, int64_t stride, const Experts& w, const Plan& plan, T* u, int64_t num_threads,
                      T* out) {
  static thread_local Workspace hidden_space, out_space;
  const int64_t dim = w.dim, hidden = w.hidden;
  T* h = hidden_space.get<T>(plan.num_rows * hidden);
  multiply_packing<T>(
      plan, hidden, dim, num_threads,
      [&](int64_t g, int64_t n, int64_t width, T* panel) { pack_rows_of(w.w1[g] + n * dim, dim, width, dim, panel); },
      [&](int64_t row) { return x + plan.order[row] * stride; },
      [&](int64_t g, int64_t row, int64_t n, int64_t width, const float* sums) {
        for (int64_t i = 0; i < width; i += LANES) {
          const __mmask16 lanes = first_lanes(width - i);
          const __m512 v = rounded<T>(_mm512_add_ps(_mm512_loadu_ps(sums + i), load(w.b1[g] + n + i, lanes)));
          store(u + row * hidden + n + i, v, lanes);
          store(h + row * hidden + n + i, gelu(v), lanes);
        }
      });
  if (w.mid_weight != nullptr) {
    const std::vector<Segment> segments = segments_of(plan.num_groups, plan.sizes);
    parallel(num_threads, int64_t(segments.size()), plan.num_rows * hidden * 8, [&](int64_t task) {
      const Segment& s = segments[size_t(task)];
      for (int64_t row = s.first; row < s.first + s.size; ++row)
        layer_norm(h + row * hidden, hidden, w.mid_weight[s.group], w.mid_bias[s.group], w.eps);
    });
  }
  T* y = plan.complete ? nullptr : out_space.get<T>(plan.num_rows * dim);
  multiply_packing<T>(
      plan, dim, hidden, num_threads,
      [&](int64_t g, int64_t n, int64_t width, T* panel) {
        pack_rows_of(w.w2[g] + n * hidden, hidden, width, hidden, panel);
      },
      [&](int64_t row) { return h + row * hidden; },
      [&](int64_t g, int64_t row, int64_t n, int64_t width, const float* sums) {
        T* to = (plan.complete ? out + plan.order[row] * dim : y + row * dim) + n;
        const float* bias = w.b2[g] + n;
        if (plan.gates == nullptr)
          finish(sums, bias, width, to, [](__m512 v) { return v; });
        else
          finish(sums, bias, width, to, [gate = _mm512_set1_ps(plan.gates[row])](__m512 v) {
            return _mm512_mul_ps(rounded<T>(v), gate);
          });
      });
  if (!plan.complete) sum_choices(y, plan, dim, num_threads, out);
}

// Sixteen columns of up to 16 units of rows: element (column c, unit u) to to[c * stride + u].
inline void turn(const float* x, int64_t stride, int64_t num_rows, __mmask16 columns, int64_t num_columns, float* to,
                 int64_t to_stride) {
  __m512i unit[LANES];
  for (int64_t r = 0; r < LANES; ++r)
    unit[r] = r < num_rows ? _mm512_castps_si512(load(x + r * stride, columns)) : _mm512_setzero_si512();
  transpose(unit);
  for (int64_t c = 0; c < num_columns; ++c)
    _mm512_mask_storeu_ps(to + c * to_stride, first_lanes(num_rows), _mm512_castsi512_ps(unit[c]));
}

inline void turn(const bf16* x, int64_t stride, int64_t num_rows, __mmask16 columns, int64_t num_columns, bf16* to,
                 int64_t to_stride) {
  __m512i unit[LANES];
  const auto row = [&](int64_t r) {
    return r < num_rows ? _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(columns, x + r * stride))
                        : _mm512_setzero_si512();
  };
  for (int64_t r = 0; r < LANES; ++r) unit[r] = _mm512_or_si512(row(2 * r), _mm512_slli_epi32(row(2 * r + 1), 16));
  transpose(unit);
  const __mmask32 rows = num_rows >= 2 * LANES ? ~__mmask32(0) : (__mmask32(1) << num_rows) - 1;
  for (int64_t c = 0; c < num_columns; ++c) _mm512_mask_storeu_epi16(to + c * to_stride, rows, unit[c]);
}

// distance between columns of `rows` rows that lie transposed: whole cache lines
inline int64_t turned_stride(int64_t rows) { return ceil_div(rows, 2 * LANES) * 2 * LANES; }

// x [rows, width] by group to [width, rows of the group] by group, and the sums of its columns
template <typename T>
void turn_groups(const T* x, int64_t width, const Plan& plan, const std::vector<int64_t>& turned, float* const* learns,
                 float* const* sums, int64_t num_threads, T* to) {
  const int64_t blocks = ceil_div(width, COLUMNS);
  const std::vector<int64_t> firsts = firsts_of(plan);
  parallel(num_threads, plan.num_groups * blocks, plan.num_rows * width * 2, [&](int64_t task) {
    const int64_t g = task / blocks;
    if (learns[g] == nullptr) return;
    const int64_t first = firsts[size_t(g)], size = plan.sizes[g], stride = turned_stride(size);
    for (int64_t c = task % blocks * COLUMNS; c < std::min((task % blocks + 1) * COLUMNS, width); c += LANES) {
      const int64_t num_columns = std::min<int64_t>(LANES, width - c);
      const __mmask16 columns = first_lanes(num_columns);
      const T* from = x + first * width + c;
      __m512 sum = _mm512_setzero_ps();
      for (int64_t r = 0; r < size; ++r) sum = _mm512_add_ps(sum, load(from + r * width, columns));
      store(sums[g] + c, sum, columns);
      T* group_to = to + turned[size_t(g)] * width + c * stride;
      constexpr int64_t STEP = LANES * PER_UNIT<T>;
      for (int64_t r = 0; r < size; r += STEP)
        turn(from + r * width, width, std::min(STEP, size - r), columns, num_columns, group_to + r, stride);
    }
  });
}

// dw[g] [m, n] = a^T b over the rows of the group; a: as `turn_groups` left it, [m, rows]; b: [rows, n]
template <typename T>
void weight_gradients(const T* a, int64_t m, const T* b, int64_t n, const Plan& plan,
                      const std::vector<int64_t>& turned, float* const* dw, int64_t num_threads) {
  const int64_t panels = ceil_div(n, PANEL);
  const int64_t blocks = ceil_div(m, MAX_SEGMENT);
  const std::vector<int64_t> firsts = firsts_of(plan);
  parallel(num_threads, plan.num_groups * panels * blocks, plan.num_rows * m * n, [&](int64_t task) {
    static thread_local Workspace space;
    const int64_t g = task / (panels * blocks), column = task / blocks % panels * PANEL;
    const int64_t top = task % blocks * MAX_SEGMENT, height = std::min(MAX_SEGMENT, m - top);
    const int64_t width = std::min(PANEL, n - column);
    if (dw[g] == nullptr) return;
    float* out = dw[g] + top * n + column;
    const int64_t size = plan.sizes[g], stride = turned_stride(size);
    // nobody's gradient is zeros; in one piece
    if (size == 0 && column == 0) std::memset(out, 0, size_t(height * n) * sizeof(float));
    // what no cache holds goes past it, without reading what is overwritten
    const bool streams = plan.num_groups * m * n * int64_t(sizeof(float)) > CACHED_BYTES && size <= DEPTH &&
                         n % LANES == 0 && reinterpret_cast<uintptr_t>(out) % 64 == 0;
    T* panel = space.get<T>(panel_stride<T>(DEPTH));
    for (int64_t k = 0; k < size; k += DEPTH) {
      const int64_t depth = std::min(DEPTH, size - k);
      pack_columns(b + (firsts[size_t(g)] + k) * n + column, n, width, depth, panel);
      const T* rows[MAX_SEGMENT];
      for (int64_t r = 0; r < height; ++r) rows[r] = a + turned[size_t(g)] * m + (top + r) * stride + k;
      rows_times_panel<T>(rows, height, panel, panel_vectors(n, column), depth,
                          [&](int64_t first, int64_t num, const float* sums) {
                            for (int64_t r = 0; r < num; ++r)
                              for (int64_t i = 0; i < width; i += LANES) {
                                const __mmask16 lanes = first_lanes(width - i);
                                float* to = out + (first + r) * n + i;
                                __m512 sum = _mm512_loadu_ps(sums + r * PANEL + i);
                                if (k > 0) sum = _mm512_add_ps(sum, load(to, lanes));
                                if (streams)
                                  _mm512_stream_ps(to, sum);
                                else
                                  store(to, sum, lanes);
                              }
                          });
    }
    _mm_sfence();
  });
}

// LayerNorm's backward, from h = gelu(u) and dn, the gradient of its output without the gate. In place: h becomes the
// LayerNorm's output, and dn the gradient of u. Adds to dgates, writes the gradients of the LayerNorm's weights.
template <typename T>
void norm_backward(const T* u, const Experts& w, const ExpertGradients& dw, const Plan& plan, float* dgates,
                   int64_t num_threads, T* h, T* dn) {
  struct Row {
    float mean, scale, mean_d, mean_dx;
  };
  static thread_local Workspace row_space;
  Row* stats = row_space.get<Row>(plan.num_rows);
  const int64_t width = w.hidden;
  const float inverse = 1.0f / float(width);
  const auto gate_of = [&](int64_t row) { return plan.gates == nullptr ? 1.0f : plan.gates[row]; };
  const std::vector<Segment> segments = segments_of(plan.num_groups, plan.sizes);
  const auto each_row = [&](auto body) {
    parallel(num_threads, int64_t(segments.size()), plan.num_rows * width * 8, [&](int64_t task) {
      const Segment& s = segments[size_t(task)];
      for (int64_t row = s.first; row < s.first + s.size; ++row) body(s.group, row);
    });
  };
  each_row([&](int64_t g, int64_t row) {
    const T *x = h + row * width, *d = dn + row * width;
    const float *weight = w.mid_weight[g], *bias = w.mid_bias[g];
    __m512 sum = _mm512_setzero_ps(), squares = sum, sum_d = sum, sum_dx = sum, dgate = sum;
    const auto each = [&](auto body) {
      for (int64_t i = 0; i < width; i += LANES) body(i, first_lanes(width - i));
    };
    each([&](int64_t i, __mmask16 lanes) { sum = _mm512_add_ps(sum, load(x + i, lanes)); });
    const float mean = _mm512_reduce_add_ps(sum) * inverse;
    each([&](int64_t i, __mmask16 lanes) {
      const __m512 c = _mm512_maskz_sub_ps(lanes, load(x + i, lanes), _mm512_set1_ps(mean));
      squares = _mm512_fmadd_ps(c, c, squares);
    });
    const float scale = 1.0f / __builtin_sqrtf(_mm512_reduce_add_ps(squares) * inverse + w.eps);
    each([&](int64_t i, __mmask16 lanes) {
      const __m512 c = _mm512_maskz_sub_ps(lanes, load(x + i, lanes), _mm512_set1_ps(mean));
      const __m512 normed = _mm512_mul_ps(c, _mm512_set1_ps(scale));
      const __m512 dv = load(d + i, lanes), dx = _mm512_mul_ps(dv, load(weight + i, lanes));
      sum_d = _mm512_add_ps(sum_d, dx);
      sum_dx = _mm512_fmadd_ps(dx, normed, sum_dx);
      dgate = _mm512_fmadd_ps(dv, load(bias + i, lanes), dgate);
    });
    const float dot = _mm512_reduce_add_ps(sum_dx);
    stats[row] = {mean, scale, _mm512_reduce_add_ps(sum_d) * inverse, dot * inverse};
    if (dgates != nullptr) dgates[row] += dot + _mm512_reduce_add_ps(dgate);
  });
  const int64_t blocks = ceil_div(width, COLUMNS);
  const std::vector<int64_t> firsts = firsts_of(plan);
  parallel(num_threads, plan.num_groups * blocks, plan.num_rows * width * 4, [&](int64_t task) {
    const int64_t g = task / blocks;
    if (dw.w1[g] == nullptr) return;
    for (int64_t i = task % blocks * COLUMNS; i < std::min((task % blocks + 1) * COLUMNS, width); i += LANES) {
      const __mmask16 lanes = first_lanes(width - i);
      __m512 dweight = _mm512_setzero_ps(), dbias = dweight;
      for (int64_t row = firsts[size_t(g)]; row < firsts[size_t(g) + 1]; ++row) {
        const __m512 c = _mm512_sub_ps(load(h + row * width + i, lanes), _mm512_set1_ps(stats[row].mean));
        const __m512 d = _mm512_mul_ps(load(dn + row * width + i, lanes), _mm512_set1_ps(gate_of(row)));
        dweight = _mm512_fmadd_ps(d, _mm512_mul_ps(c, _mm512_set1_ps(stats[row].scale)), dweight);
        dbias = _mm512_add_ps(dbias, d);
      }
      store(dw.mid_weight[g] + i, dweight, lanes);
      store(dw.mid_bias[g] + i, dbias, lanes);
    }
  });
  each_row([&](int64_t g, int64_t row) {
    const Row& s = stats[row];
    for (int64_t i = 0; i < width; i += LANES) {
      const __mmask16 lanes = first_lanes(width - i);
      T *x = h + row * width + i, *d = dn + row * width + i;
      const __m512 weight = load(w.mid_weight[g] + i, lanes);
      const __m512 normed =
          _mm512_mul_ps(_mm512_sub_ps(load(x, lanes), _mm512_set1_ps(s.mean)), _mm512_set1_ps(s.scale));
      __m512 dh = _mm512_sub_ps(_mm512_mul_ps(load(d, lanes), weight), _mm512_set1_ps(s.mean_d));
      dh = _mm512_fnmadd_ps(normed, _mm512_set1_ps(s.mean_dx), dh);
      dh = _mm512_mul_ps(dh, _mm512_set1_ps(s.scale * gate_of(row)));
      store(d, _mm512_mul_ps(dh, gelu_pair(load(u + row * width + i, lanes)).slope), lanes);
      store(x, _mm512_fmadd_ps(normed, weight, load(w.mid_bias[g] + i, lanes)), lanes);
    }
  });
}

// dout [tokens, dim] dense; dgates: one float a row, null where the plan has no gates; dx [tokens, dim]
template <typename T>
void learning_backward(const T* x, int64_t stride, const T* u, const T* dout, const Experts& w,
                       const ExpertGradients& dw, const Plan& plan, float* dgates, int64_t num_threads, T* dx) {
  static thread_local Workspace x_space, dy_space, h_space, du_space, turned_space, partial_space, out_space;
  const int64_t dim = w.dim, hidden = w.hidden, num_rows = plan.num_rows;
  T* x_rows = x_space.get<T>(num_rows * dim);
  T* dy = dy_space.get<T>(num_rows * dim);
  T* h = h_space.get<T>(num_rows * hidden);
  T* du = du_space.get<T>(num_rows * hidden);
  const std::vector<Segment> segments = segments_of(plan.num_groups, plan.sizes);

  // rows of x, gated rows of dout, and the part of the gates' gradient that comes from the bias
  parallel(num_threads, int64_t(segments.size()), num_rows * dim * 4, [&](int64_t task) {
    const Segment& s = segments[size_t(task)];
    for (int64_t row = s.first; row < s.first + s.size; ++row) {
      std::memcpy(x_rows + row * dim, x + plan.order[row] * stride, size_t(dim) * sizeof(T));
      const T* d = dout + plan.order[row] * dim;
      const __m512 gate = _mm512_set1_ps(plan.gates == nullptr ? 1.0f : plan.gates[row]);
      __m512 dot = _mm512_setzero_ps();
      for (int64_t i = 0; i < dim; i += LANES) {
        const __mmask16 lanes = first_lanes(dim - i);
        const __m512 v = load(d + i, lanes);
        dot = _mm512_fmadd_ps(v, load(w.b2[s.group] + i, lanes), dot);
        store(dy + row * dim + i, _mm512_mul_ps(v, gate), lanes);
      }
      if (dgates != nullptr) dgates[row] = _mm512_reduce_add_ps(dot);
    }
  });

  // back through the second product, the gate, and without a LayerNorm the GELU
  const bool normed = w.mid_weight != nullptr;
  const int64_t num_panels = ceil_div(hidden, PANEL);
  float* partial = dgates == nullptr || normed ? nullptr : partial_space.get<float>(num_rows * num_panels);
  multiply_packing<T>(
      plan, hidden, dim, num_threads,
      [&](int64_t g, int64_t n, int64_t width, T* panel) { pack_columns_of(w.w2[g] + n, hidden, width, dim, panel); },
      [&](int64_t row) { return dout + plan.order[row] * dim; },
      [&](int64_t, int64_t row, int64_t n, int64_t width, const float* sums) {
        const __m512 gate = _mm512_set1_ps(plan.gates == nullptr ? 1.0f : plan.gates[row]);
        __m512 dot = _mm512_setzero_ps();
        for (int64_t i = 0; i < width; i += LANES) {
          const __mmask16 lanes = first_lanes(width - i);
          const int64_t at = row * hidden + n + i;
          const GeluPair g = gelu_pair(load(u + at, lanes));
          const __m512 value = rounded<T>(g.value);
          const __m512 d = _mm512_maskz_loadu_ps(lanes, sums + i);
          store(h + at, value, lanes);
          dot = _mm512_fmadd_ps(d, value, dot);
          store(du + at, normed ? d : _mm512_mul_ps(_mm512_mul_ps(d, gate), g.slope), lanes);
        }
        if (partial != nullptr) partial[row * num_panels + n / PANEL] = _mm512_reduce_add_ps(dot);
      });
  if (partial != nullptr)
    for (int64_t row = 0; row < num_rows; ++row)
      for (int64_t p = 0; p < num_panels; ++p) dgates[row] += partial[row * num_panels + p];
  if (normed) norm_backward(u, w, dw, plan, dgates, num_threads, h, du);

  // weights
  bool learns = false;
  std::vector<int64_t> turned{0};
  for (int64_t g = 0; g < plan.num_groups; ++g) {
    learns |= dw.w1[g] != nullptr;
    turned.push_back(turned.back() + turned_stride(plan.sizes[g]));
  }
  if (learns) {
    T* columns = turned_space.get<T>(turned.back() * std::max(dim, hidden));
    turn_groups(du, hidden, plan, turned, dw.w1, dw.b1, num_threads, columns);
    weight_gradients(columns, hidden, x_rows, dim, plan, turned, dw.w1, num_threads);
    turn_groups(dy, dim, plan, turned, dw.w1, dw.b2, num_threads, columns);
    weight_gradients(columns, dim, h, hidden, plan, turned, dw.w2, num_threads);
  }

  // back through the first product
  T* y = plan.complete ? nullptr : out_space.get<T>(num_rows * dim);
  multiply_packing<T>(
      plan, dim, hidden, num_threads,
      [&](int64_t g, int64_t n, int64_t width, T* panel) { pack_columns_of(w.w1[g] + n, dim, width, hidden, panel); },
      [&](int64_t row) { return du + row * hidden; },
      [&](int64_t, int64_t row, int64_t n, int64_t width, const float* sums) {
        finish(sums, nullptr, width, (plan.complete ? dx + plan.order[row] * dim : y + row * dim) + n,
               [](__m512 v) { return v; });
      });
  if (!plan.complete) sum_choices(y, plan, dim, num_threads, dx);
}
