// Matrices in the order in which the tile reads them.
//
// W [N, K] lies as panels of 64 outputs, one behind the other: panel[k][64], so that one step in k is four vectors.
// The last panel is as many vectors wide as it needs. bf16 goes in pairs of k: panel[k / 2][64][2], an odd last k
// beside a zero. So the unit is four bytes in all dtypes: one float, two bf16, or four int8.
#pragma once

#include <algorithm>
#include <cstring>

#include "simd.h"

constexpr int64_t PANEL = 64;

template <typename T>
constexpr int64_t PER_UNIT = sizeof(float) / sizeof(T);

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

template <typename T>
int64_t num_units(int64_t k) {
  return ceil_div(k, PER_UNIT<T>);
}

// vectors of the panel that begins at output n
inline int panel_vectors(int64_t num_outputs, int64_t n) {
  return int(ceil_div(std::min(PANEL, num_outputs - n), LANES));
}

// elements from one panel to the next
template <typename T>
int64_t panel_stride(int64_t k) {
  return num_units<T>(k) * PANEL * PER_UNIT<T>;
}

template <typename T>
int64_t packed_elements(int64_t num_outputs, int64_t k) {
  return num_units<T>(k) * ceil_div(num_outputs, LANES) * LANES * PER_UNIT<T>;
}

// 16 x 16 units in place
inline void transpose(__m512i (&row)[LANES]) {
  __m512i t[LANES];
  for (int i = 0; i < LANES; i += 2) {
    t[i] = _mm512_unpacklo_epi32(row[i], row[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(row[i], row[i + 1]);
  }
  for (int i = 0; i < LANES; i += 4) {
    row[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    row[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    row[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    row[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
  // 128-bit lanes are transposed within every four rows; now the lanes themselves
  for (int i = 0; i < 4; ++i) {
    const __m512i low02 = _mm512_shuffle_i32x4(row[i], row[i + 4], 0x88);
    const __m512i low13 = _mm512_shuffle_i32x4(row[i], row[i + 4], 0xdd);
    const __m512i high02 = _mm512_shuffle_i32x4(row[i + 8], row[i + 12], 0x88);
    const __m512i high13 = _mm512_shuffle_i32x4(row[i + 8], row[i + 12], 0xdd);
    t[i] = _mm512_shuffle_i32x4(low02, high02, 0x88);
    t[i + 4] = _mm512_shuffle_i32x4(low13, high13, 0x88);
    t[i + 8] = _mm512_shuffle_i32x4(low02, high02, 0xdd);
    t[i + 12] = _mm512_shuffle_i32x4(low13, high13, 0xdd);
  }
  std::copy(t, t + LANES, row);
}

inline __m512i load_units(const float* from, int64_t num) {
  return _mm512_maskz_loadu_epi32(first_lanes(num), from);
}

inline __m512i load_units(const bf16* from, int64_t num) {
  return _mm512_maskz_loadu_epi16(num >= 2 * LANES ? ~__mmask32(0) : (__mmask32(1) << num) - 1, from);
}

// four bytes are a unit, as two bf16 are
inline __m512i load_units(const int8_t* from, int64_t num) {
  return _mm512_maskz_loadu_epi8(num >= 4 * LANES ? ~__mmask64(0) : (__mmask64(1) << num) - 1, from);
}

// one panel from rows of W: element (n, k) at w[n * stride + k]
template <typename T>
void pack_panel(const T* w, int64_t stride, int64_t num_outputs, int64_t k, T* panel) {
  const int vectors = panel_vectors(num_outputs, 0);
  constexpr int64_t STEP = LANES * PER_UNIT<T>;
  for (int64_t from = 0; from < k; from += STEP) {
    const int64_t units = std::min<int64_t>(LANES, num_units<T>(k - from));
    for (int v = 0; v < vectors; ++v) {
      __m512i row[LANES];
      for (int64_t i = 0; i < LANES; ++i) {
        const int64_t n = v * LANES + i;
        row[i] = n < num_outputs ? load_units(w + n * stride + from, k - from) : _mm512_setzero_si512();
      }
      transpose(row);
      for (int64_t u = 0; u < units; ++u)
        _mm512_storeu_si512(panel + ((from / PER_UNIT<T> + u) * vectors + v) * STEP, row[u]);
    }
  }
}

// one panel from columns: element (n, k) at w[k * stride + n]
inline void pack_columns(const float* w, int64_t stride, int64_t num_outputs, int64_t k, float* panel) {
  for (int64_t i = 0; i < k; ++i)
    for (int64_t n = 0; n < num_outputs; n += LANES, panel += LANES)
      _mm512_storeu_ps(panel, load(w + i * stride + n, first_lanes(num_outputs - n)));
}

inline void pack_columns(const bf16* w, int64_t stride, int64_t num_outputs, int64_t k, bf16* panel) {
  for (int64_t i = 0; i < k; i += 2)
    for (int64_t n = 0; n < num_outputs; n += LANES, panel += 2 * LANES) {
      const __mmask16 lanes = first_lanes(num_outputs - n);
      const __mmask16 second = i + 1 < k ? lanes : __mmask16(0);
      const __m512i even = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(lanes, w + i * stride + n));
      const __m512i odd = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(second, w + (i + 1) * stride + n));
      _mm512_storeu_si512(panel, _mm512_or_si512(even, _mm512_slli_epi32(odd, 16)));
    }
}
