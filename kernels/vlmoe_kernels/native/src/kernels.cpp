// What Python calls: plain C functions on addresses, for float and, where the processor has it, bf16 (`is_bf16`).
// They return 0, or 1 where memory ran out.

#include <new>

#include "attention.h"
#include "cells.h"
#include "grouped.h"
#include "int8.h"
#include "pieces.h"
#include "training.h"

namespace {

// run(T()) with the element type
template <typename Run>
int with_dtype(int64_t is_bf16, Run run) {
  try {
#ifdef __AVX512BF16__
    if (is_bf16) {
      run(bf16());
      return 0;
    }
#else
    if (is_bf16) return 2;
#endif
    run(float());
    return 0;
  } catch (const std::bad_alloc&) {
    return 1;
  }
}

}  // namespace

#pragma GCC visibility push(default)
extern "C" {

int64_t vlmoe_packed_bytes(int64_t is_bf16, int64_t num_outputs, int64_t k) {
  return is_bf16 ? packed_elements<bf16>(num_outputs, k) * int64_t(sizeof(bf16))
                 : packed_elements<float>(num_outputs, k) * int64_t(sizeof(float));
}

// w: groups of dense [num_outputs, k]; to: groups of vlmoe_packed_bytes
int vlmoe_pack(int64_t is_bf16, const void* w, int64_t num_groups, int64_t num_outputs, int64_t k,
               int64_t num_threads, void* to) {
  return with_dtype(is_bf16, [&](auto type) {
    using T = decltype(type);
    const int64_t panels = ceil_div(num_outputs, PANEL);
    parallel(num_threads, num_groups * panels, num_groups * num_outputs * k, [&](int64_t task) {
      const int64_t group = task / panels, n = task % panels * PANEL;
      pack_panel(static_cast<const T*>(w) + (group * num_outputs + n) * k, k, std::min(PANEL, num_outputs - n), k,
                 static_cast<T*>(to) + group * packed_elements<T>(num_outputs, k) + n / PANEL * panel_stride<T>(k));
    });
  });
}

int vlmoe_linear(int64_t is_bf16, const void* x, int64_t stride, int64_t num_rows, const Matrices* w,
                 int64_t num_threads, void* out) {
  return with_dtype(is_bf16, [&](auto type) {
    using T = decltype(type);
    linear(static_cast<const T*>(x), stride, num_rows, *w, num_threads, static_cast<T*>(out));
  });
}

int vlmoe_grouped_linear(int64_t is_bf16, const void* x, int64_t stride, const Matrices* w, const Plan* plan,
                         int64_t num_threads, void* out) {
  return with_dtype(is_bf16, [&](auto type) {
    using T = decltype(type);
    grouped_linear(static_cast<const T*>(x), stride, *w, *plan, num_threads, static_cast<T*>(out));
  });
}

int vlmoe_grouped_ffn(int64_t is_bf16, const void* x, int64_t stride, const Matrices* up, const Matrices* down,
                      const float* const* mid_weight, const float* const* mid_bias, float eps, const Plan* plan,
                      int64_t num_threads, void* out) {
  return with_dtype(is_bf16, [&](auto type) {
    using T = decltype(type);
    const auto x_row = [=](int64_t token) { return static_cast<const T*>(x) + token * stride; };
    feed_forward<T>(x_row, *up, *down, mid_weight, mid_bias, eps, *plan, num_threads, static_cast<T*>(out));
  });
}

// the plan's token t is row source[t] of the pieces
int vlmoe_grouped_ffn_of_pieces(int64_t is_bf16, const Pieces* pieces, const int64_t* source, const Matrices* up,
                                const Matrices* down, const float* const* mid_weight, const float* const* mid_bias,
                                float eps, const Plan* plan, int64_t num_threads, void* out) {
  return with_dtype(is_bf16, [&](auto type) {
    using T = decltype(type);
    const std::vector<const T*> rows = rows_of<T>(*pieces);
    const auto x_row = [&](int64_t token) { return rows[size_t(source[token])]; };
    feed_forward<T>(x_row, *up, *down, mid_weight, mid_bias, eps, *plan, num_threads, static_cast<T*>(out));
  });
}

int vlmoe_combine(int64_t is_bf16, const Pieces* pieces, const Plan* plan, int64_t num_threads, void* out) {
  return with_dtype(is_bf16, [&](auto type) {
    using T = decltype(type);
    combine(*pieces, *plan, num_threads, static_cast<T*>(out));
  });
}

// x: dense floats [num_rows, width], overwritten by the sum; y: of the same shape, floats or (`y_is_bf16`) bf16, or null;
// exact: floats of the same shape, or null
int vlmoe_add_norm(int64_t is_bf16, float* x, const void* y, int64_t y_is_bf16, int64_t num_rows, int64_t width,
                   const int64_t* groups, const float* const* weight, const float* const* bias, float eps,
                   float* exact, int64_t num_threads, void* out) {
  return with_dtype(is_bf16, [&](auto type) {
    using T = decltype(type);
    with_dtype(y_is_bf16, [&](auto y_type) {
      using Y = decltype(y_type);
      add_norm(x, static_cast<const Y*>(y), num_rows, width, groups, weight, bias, eps, exact, num_threads,
               static_cast<T*>(out));
    });
  });
}

// u: [rows, hidden], for the backward
int vlmoe_learning_forward(int64_t is_bf16, const void* x, int64_t stride, const Experts* w, const Plan* plan, void* u,
                           int64_t num_threads, void* out) {
  return with_dtype(is_bf16, [&](auto type) {
    using T = decltype(type);
    learning_forward(static_cast<const T*>(x), stride, *w, *plan, static_cast<T*>(u), num_threads, static_cast<T*>(out));
  });
}

int vlmoe_learning_backward(int64_t is_bf16, const void* x, int64_t stride, const void* u, const void* dout,
                            const Experts* w, const ExpertGradients* dw, const Plan* plan, float* dgates,
                            int64_t num_threads, void* dx) {
  return with_dtype(is_bf16, [&](auto type) {
    using T = decltype(type);
    learning_backward(static_cast<const T*>(x), stride, static_cast<const T*>(u), static_cast<const T*>(dout), *w, *dw,
                      *plan, dgates, num_threads, static_cast<T*>(dx));
  });
}

int64_t vlmoe_int8_packed_bytes(int64_t num_outputs, int64_t k) { return packed_elements<int8_t>(num_outputs, k); }

// w: groups of dense [num_outputs, k]; to: groups of vlmoe_int8_packed_bytes
int vlmoe_int8_pack(int64_t, const int8_t* w, int64_t num_groups, int64_t num_outputs, int64_t k, int64_t num_threads,
                    void* to) {
  const int64_t panels = ceil_div(num_outputs, PANEL);
  parallel(num_threads, num_groups * panels, num_groups * num_outputs * k, [&](int64_t task) {
    const int64_t group = task / panels, n = task % panels * PANEL;
    pack_panel(w + (group * num_outputs + n) * k, k, std::min(PANEL, num_outputs - n), k,
               static_cast<int8_t*>(to) + group * packed_elements<int8_t>(num_outputs, k) +
                   n / PANEL * panel_stride<int8_t>(k));
  });
  return 0;
}

// only where the processor has AVX512_VNNI
int vlmoe_int8_ffn(int64_t is_bf16, const void* x, int64_t stride, const Int8Matrices* up, const Int8Matrices* down,
                   const float* const* mid_weight, const float* const* mid_bias, float eps, const Plan* plan,
                   int64_t num_threads, void* out) {
  return with_dtype(is_bf16, [&](auto type) {
    using T = decltype(type);
    const auto x_row = [=](int64_t token) { return static_cast<const T*>(x) + token * stride; };
    int8_feed_forward<T>(x_row, *up, *down, mid_weight, mid_bias, eps, *plan, num_threads, static_cast<T*>(out));
  });
}

int vlmoe_int8_ffn_of_pieces(int64_t is_bf16, const Pieces* pieces, const int64_t* source, const Int8Matrices* up,
                             const Int8Matrices* down, const float* const* mid_weight, const float* const* mid_bias,
                             float eps, const Plan* plan, int64_t num_threads, void* out) {
  return with_dtype(is_bf16, [&](auto type) {
    using T = decltype(type);
    const std::vector<const T*> rows = rows_of<T>(*pieces);
    const auto x_row = [&](int64_t token) { return rows[size_t(source[token])]; };
    int8_feed_forward<T>(x_row, *up, *down, mid_weight, mid_bias, eps, *plan, num_threads, static_cast<T*>(out));
  });
}

int vlmoe_gradient_cells(int64_t is_bf16, const float* images, int64_t num_images, int64_t side, int64_t cell,
                         float epsilon, int64_t num_threads, float* out) {
  return with_dtype(is_bf16, [&](auto) { gradient_cells(images, num_images, side, cell, epsilon, num_threads, out); });
}

// strides: (token, head) of q, k and v
int vlmoe_attention(int64_t is_bf16, const void* q, const void* k, const void* v, const int64_t* strides,
                    const Sequences* runs, int64_t num_runs, int64_t num_heads, int64_t width, float scale,
                    int64_t num_threads, void* out) {
  return with_dtype(is_bf16, [&](auto type) {
    using T = decltype(type);
    const Strides all[3] = {{strides[0], strides[1]}, {strides[2], strides[3]}, {strides[4], strides[5]}};
    attention(static_cast<const T*>(q), static_cast<const T*>(k), static_cast<const T*>(v), all, runs, num_runs,
              num_heads, width, scale, num_threads, static_cast<T*>(out));
  });
}
}
#pragma GCC visibility pop
