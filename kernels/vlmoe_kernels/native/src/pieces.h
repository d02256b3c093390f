// Rows that lie in several pieces of memory: those of this process and of others that share theirs.
#pragma once

#include <vector>

#include "grouped.h"

// piece p: num_rows[p] dense rows of `width` elements at at[p]. Rows are numbered one piece behind the other.
struct Pieces {
  int64_t num_pieces, width;
  const void* const* at;
  const int64_t* num_rows;
};

template <typename T>
std::vector<const T*> rows_of(const Pieces& pieces) {
  std::vector<const T*> rows;
  for (int64_t p = 0; p < pieces.num_pieces; ++p)
    for (int64_t r = 0; r < pieces.num_rows[p]; ++r) rows.push_back(static_cast<const T*>(pieces.at[p]) + r * pieces.width);
  return rows;
}

// routed rows back to their tokens; every step is rounded to T, as in `eager.combine`
template <typename T>
void combine(const Pieces& pieces, const Plan& plan, int64_t num_threads, T* out) {
  const std::vector<const T*> rows = rows_of<T>(pieces);
  const int64_t width = pieces.width;
  constexpr int64_t TOKENS = 64;
  const int64_t work = plan.num_tokens * plan.num_choices * width;
  parallel(num_threads, ceil_div(plan.num_tokens, TOKENS), work, [&](int64_t task) {
    for (int64_t t = task * TOKENS; t < std::min((task + 1) * TOKENS, plan.num_tokens); ++t) {
      const int64_t* slots = plan.slots + t * plan.num_choices;
      // the next token's rows: another processor wrote them last
      if (t + 1 < plan.num_tokens)
        for (int64_t c = 0; c < plan.num_choices; ++c)
          if (const int64_t row = slots[plan.num_choices + c]; row >= 0)
            for (int64_t n = 0; n < width; n += 64 / int64_t(sizeof(T))) _mm_prefetch(rows[size_t(row)] + n, _MM_HINT_T0);
      for (int64_t n = 0; n < width; n += LANES) {
        const __mmask16 lanes = first_lanes(width - n);
        const auto choice = [&](int64_t c) {
          const int64_t row = slots[c];
          if (row < 0) return _mm512_setzero_ps();
          const __m512 x = load(rows[size_t(row)] + n, lanes);
          return plan.gates == nullptr ? x : rounded<T>(_mm512_mul_ps(x, _mm512_set1_ps(plan.gates[row])));
        };
        __m512 sum = choice(0);
        for (int64_t c = 1; c < plan.num_choices; ++c) sum = rounded<T>(_mm512_add_ps(sum, choice(c)));
        store(out + t * width + n, sum, lanes);
      }
    }
  });
}
