// Sixteen floats at a time: loads and stores of both dtypes, exp, exact GELU.
#pragma once

#include <immintrin.h>

#include <cstdint>

// bf16 as it lies in memory
using bf16 = uint16_t;

constexpr int LANES = 16;

// the first `num` lanes; all of them from 16 on
inline __mmask16 first_lanes(int64_t num) {
  return num >= LANES ? __mmask16(0xffff) : __mmask16((1u << num) - 1);
}

inline __m512 load(const float* from, __mmask16 lanes) { return _mm512_maskz_loadu_ps(lanes, from); }

inline __m512 widened(__m256i bf16s) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bf16s), 16));
}

inline __m512 load(const bf16* from, __mmask16 lanes) { return widened(_mm256_maskz_loadu_epi16(lanes, from)); }

inline void store(float* to, __m512 x, __mmask16 lanes) { _mm512_mask_storeu_ps(to, lanes, x); }

// x as it would come back from memory of type T
template <typename T>
__m512 rounded(__m512 x);

template <>
inline __m512 rounded<float>(__m512 x) {
  return x;
}

#ifdef __AVX512BF16__
// to nearest even
inline void store(bf16* to, __m512 x, __mmask16 lanes) {
  _mm256_mask_storeu_epi16(to, lanes, (__m256i)_mm512_cvtneps_pbh(x));
}

template <>
inline __m512 rounded<bf16>(__m512 x) {
  return widened((__m256i)_mm512_cvtneps_pbh(x));
}
#endif

// 2^n * p(r), p the Taylor series of e^r of that degree
template <int DEGREE>
inline __m512 scaled_exp(__m512 r, __m512 n) {
  constexpr float SERIES[] = {1.0f, 1.0f, 0.5f, 1.0f / 6, 1.0f / 24, 1.0f / 120, 1.0f / 720, 1.0f / 5040};
  __m512 p = _mm512_set1_ps(SERIES[DEGREE]);
#pragma GCC unroll 8
  for (int i = DEGREE - 1; i >= 0; --i) p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(SERIES[i]));
  return _mm512_scalef_ps(p, n);
}

// e^x by x = n ln 2 + r, |r| <= ln 2 / 2 (relative error 1e-8 before rounding); 0 below -200, so that -inf is no
// special case
inline __m512 exp(__m512 x) {
  // the constant first: max returns its second operand where there is a NaN
  x = _mm512_max_ps(_mm512_set1_ps(-200.0f), x);
  const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), _MM_FROUND_TO_NEAREST_INT);
  // ln 2 in two parts: the first has so few bits that its product with n is exact
  __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
  r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
  return scaled_exp<7>(r, n);
}

// 2^x likewise; what is rounded to bf16 afterwards is done with three terms less (relative error 4e-5, of 2e-3)
template <typename T>
inline __m512 exp2(__m512 x) {
  x = _mm512_max_ps(_mm512_set1_ps(-200.0f), x);
  const __m512 n = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT);
  const __m512 r = _mm512_mul_ps(_mm512_sub_ps(x, n), _mm512_set1_ps(0.693147181f));
  return scaled_exp<sizeof(T) == sizeof(float) ? 7 : 4>(r, n);
}

// v * Phi(v), with erf by Abramowitz and Stegun 7.1.26 (absolute error below 1.5e-7):
// erfc(z) = (a1 t + ... + a5 t^5) e^(-z^2), t = 1 / (1 + 0.3275911 z), z = |v| / sqrt(2)
inline __m512 gelu(__m512 v) {
  const __m512 one = _mm512_set1_ps(1.0f);
  const __m512 z = _mm512_mul_ps(_mm512_abs_ps(v), _mm512_set1_ps(0.707106781f));
  const __m512 t = _mm512_div_ps(one, _mm512_fmadd_ps(z, _mm512_set1_ps(0.3275911f), one));
  __m512 p = _mm512_set1_ps(1.061405429f);
  for (const float a : {-1.453152027f, 1.421413741f, -0.284496736f, 0.254829592f})
    p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(a));
  const __m512 erfc = _mm512_mul_ps(_mm512_mul_ps(p, t), exp(_mm512_fnmadd_ps(z, z, _mm512_setzero_ps())));
  const __m512 tail = _mm512_mul_ps(_mm512_mul_ps(v, _mm512_set1_ps(0.5f)), erfc);
  // v erfc / 2 is the answer left of zero, and v less the answer right of it
  return _mm512_mask_sub_ps(tail, _mm512_cmp_ps_mask(v, _mm512_setzero_ps(), _CMP_GT_OQ), v, tail);
}
