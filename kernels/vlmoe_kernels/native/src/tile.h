// Up to seven rows times one panel of 64 outputs, its sums in registers.
//
// Every output is one chain of fused multiply-adds over k from 0 on, whatever the number of rows, the panel's width
// and the number of threads: the bits of a row depend on the row and the weights alone. A chain that is cut in two is
// kept as floats, which it is made of, so it is the same chain.
#pragma once

#include "pack.h"

constexpr int MAX_ROWS = 7;

// Seven rows of four vectors are 28 sums; three vectors of weights and one of x fill the other registers. So the fourth
// vector of weights is read from the cache by every multiply-add, which a compiler would rather do with a sum.
constexpr bool from_cache(int rows, int vectors, int v) { return rows * vectors == 28 && v == 3; }

// one step in k: `x(r)` is what row r brings to every lane
template <int ROWS, int VECTORS, typename X>
inline __attribute__((always_inline)) void step(const float* w, X x, __m512 (&sum)[ROWS][VECTORS]) {
#pragma GCC unroll 7
  for (int r = 0; r < ROWS; ++r) {
    const __m512 all = _mm512_set1_ps(x(r));
#pragma GCC unroll 4
    for (int v = 0; v < VECTORS; ++v) {
      const float* from = w + v * LANES;
      if (from_cache(ROWS, VECTORS, v))
        asm("vfmadd231ps %2, %1, %0" : "+v"(sum[r][v]) : "v"(all), "m"(*reinterpret_cast<const __m512_u*>(from)));
      else
        sum[r][v] = _mm512_fmadd_ps(all, _mm512_loadu_ps(from), sum[r][v]);
    }
  }
}

#ifdef __AVX512BF16__
template <int ROWS, int VECTORS, typename X>
inline __attribute__((always_inline)) void step(const bf16* w, X x, __m512 (&sum)[ROWS][VECTORS]) {
#pragma GCC unroll 7
  for (int r = 0; r < ROWS; ++r) {
    const __m512bh all = (__m512bh)_mm512_set1_epi32(x(r));
#pragma GCC unroll 4
    for (int v = 0; v < VECTORS; ++v) {
      const bf16* from = w + v * 2 * LANES;
      if (from_cache(ROWS, VECTORS, v))
        asm("vdpbf16ps %2, %1, %0" : "+v"(sum[r][v]) : "v"(all), "m"(*reinterpret_cast<const __m512i_u*>(from)));
      else
        sum[r][v] = _mm512_dpbf16_ps(sum[r][v], all, (__m512bh)_mm512_loadu_si512(from));
    }
  }
}
#endif

inline float unit(const float* x) { return *x; }

inline int32_t unit(const bf16* x) {
  int32_t pair;
  std::memcpy(&pair, x, sizeof pair);
  return pair;
}

constexpr int64_t LINE = 64;

// out[r * PANEL + n] = sum over k of rows[r][from + k] * panel(k, n), on top of what is there unless `from` is 0.
// Meanwhile that many LINES a step come from `ahead` on into the second-level cache.
template <int ROWS, int VECTORS, int LINES, typename T>
void tile(const T* const* rows, int64_t from, const T* panel, int64_t k, const char* ahead, float* out) {
  constexpr int64_t WIDTH = VECTORS * LANES * PER_UNIT<T>;
  __m512 sum[ROWS][VECTORS] = {};
  if (from > 0)
#pragma GCC unroll 7
    for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
      for (int v = 0; v < VECTORS; ++v) sum[r][v] = _mm512_loadu_ps(out + r * PANEL + v * LANES);
  const T* row[ROWS];
  for (int r = 0; r < ROWS; ++r) row[r] = rows[r] + from;
  const int64_t whole = k / PER_UNIT<T>;
  for (int64_t i = 0; i < whole; ++i, panel += WIDTH, ahead += LINES * LINE) {
#pragma GCC unroll 2
    for (int line = 0; line < LINES; ++line) _mm_prefetch(ahead + line * LINE, _MM_HINT_T1);
    step<ROWS, VECTORS>(panel, [&](int r) { return unit(row[r] + i * PER_UNIT<T>); }, sum);
  }
  // beyond an odd k lies another row, or nothing
  if constexpr (PER_UNIT<T> == 2)
    if (k % 2) step<ROWS, VECTORS>(panel, [&](int r) { return int32_t(row[r][k - 1]); }, sum);
#pragma GCC unroll 7
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < VECTORS; ++v) _mm512_storeu_ps(out + r * PANEL + v * LANES, sum[r][v]);
}

template <typename T>
using Tile = void (*)(const T* const*, int64_t, const T*, int64_t, const char*, float*);

template <typename T, int ROWS>
constexpr Tile<T> TILES_OF[4] = {tile<ROWS, 1, 0>, tile<ROWS, 2, 0>, tile<ROWS, 3, 0>, tile<ROWS, 4, 0>};

// TILES<T>[rows - 1][vectors - 1]
template <typename T>
constexpr const Tile<T>* TILES[MAX_ROWS] = {TILES_OF<T, 1>, TILES_OF<T, 2>, TILES_OF<T, 3>, TILES_OF<T, 4>,
                                            TILES_OF<T, 5>, TILES_OF<T, 6>, TILES_OF<T, 7>};

// STREAMING_TILES<T>[rows - 1][lines]: of whole panels
template <typename T, int ROWS>
constexpr Tile<T> STREAMING_TILES_OF[3] = {tile<ROWS, 4, 0>, tile<ROWS, 4, 1>, tile<ROWS, 4, 2>};

template <typename T>
constexpr const Tile<T>* STREAMING_TILES[MAX_ROWS] = {
    STREAMING_TILES_OF<T, 1>, STREAMING_TILES_OF<T, 2>, STREAMING_TILES_OF<T, 3>, STREAMING_TILES_OF<T, 4>,
    STREAMING_TILES_OF<T, 5>, STREAMING_TILES_OF<T, 6>, STREAMING_TILES_OF<T, 7>};

// calls body(first row, number of rows) for all rows in evenly cut blocks
template <typename Body>
void each_block(int64_t num_rows, Body body) {
  int64_t blocks = ceil_div(num_rows, MAX_ROWS);
  for (int64_t first = 0; first < num_rows; --blocks) {
    const int64_t size = ceil_div(num_rows - first, blocks);
    body(first, size);
    first += size;
  }
}

// calls done(first row, number of rows, their outputs [rows, PANEL]) for blocks of all rows
template <typename T, typename Done>
void rows_times_panel(const T* const* rows, int64_t num_rows, const T* panel, int vectors, int64_t k, Done done) {
  alignas(64) float out[MAX_ROWS * PANEL];
  each_block(num_rows, [&](int64_t first, int64_t size) {
    TILES<T>[size - 1][vectors - 1](rows + first, 0, panel, k, nullptr, out);
    done(first, size, out);
  });
}

// With one block of rows, weights come from memory while the tile computes, and the processor fetches ahead by itself;
// with many, memory is not what they wait for. Between these a panel would be awaited by the first block, and memory
// would wait for the others. So those take it chunk by chunk, and blocks fetch their share of the next chunk.
constexpr int64_t MAX_STREAMING_ROWS = 16 * MAX_ROWS;

inline bool is_streaming(int64_t num_rows, int vectors, int64_t max_rows) {
  return num_rows > MAX_ROWS && num_rows <= max_rows && vectors == 4;
}

// How a panel is taken. steps: of k, in a chunk; lines: what each block fetches a step, until a chunk is fetched.
struct Chunks {
  int64_t steps;
  int lines;
};

// few blocks: 16 KB, half the first-level cache; more: 96 KB, so that sums are put aside less often
constexpr Chunks chunks_for(int64_t num_rows) {
  return num_rows <= 3 * MAX_ROWS ? Chunks{64, 2} : num_rows <= 4 * MAX_ROWS ? Chunks{64, 1} : Chunks{384, 1};
}

// body(first row, number of rows, first step, number of steps, lines a step, from where) for each block of each chunk
template <typename Body>
void each_chunk(int64_t num_rows, int64_t num_steps, const void* panel, Body body) {
  const Chunks chunks = chunks_for(num_rows);
  for (int64_t step = 0; step < num_steps; step += chunks.steps) {
    const int64_t size = std::min(chunks.steps, num_steps - step);
    const char* ahead = static_cast<const char*>(panel) + (step + chunks.steps) * 4 * LINE;
    const char* const end = ahead + chunks.steps * 4 * LINE;
    each_block(num_rows, [&](int64_t first, int64_t rows) {
      const bool fetches = ahead < end;
      body(first, rows, step, size, fetches ? chunks.lines : 0, ahead);
      if (fetches) ahead += chunks.steps * chunks.lines * LINE;
    });
  }
}

// `rows_times_panel` for as many rows as `is_streaming` says; what follows the panel in memory is fetched
template <typename T, typename Done>
void rows_times_stream(const T* const* rows, int64_t num_rows, const T* panel, int64_t k, Done done) {
  alignas(64) float out[MAX_STREAMING_ROWS * PANEL];
  each_chunk(num_rows, num_units<T>(k), panel,
             [&](int64_t first, int64_t size, int64_t step, int64_t num_steps, int lines, const char* ahead) {
               const int64_t from = step * PER_UNIT<T>;
               STREAMING_TILES<T>[size - 1][lines](rows + first, from, panel + from * PANEL,
                                                   std::min(num_steps * PER_UNIT<T>, k - from), ahead,
                                                   out + first * PANEL);
             });
  done(0, num_rows, out);
}
