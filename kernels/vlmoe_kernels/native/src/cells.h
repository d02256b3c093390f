// Orientation histograms and mean colours of an image's cells (model/vlmoe_model/stems/gradient.py has the formula), in
// one pass over its pixels. An image is one task's, so its bits depend on the image alone.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "simd.h"
#include "threads.h"

constexpr int64_t BINS = 9, CHANNELS = 3;

// atan(t) / pi for t in [0, 1], by Abramowitz and Stegun 4.4.49 (absolute error of the angle below 2e-8)
inline __m512 arc_of_pi(__m512 t) {
  constexpr float SERIES[] = {1.0f,           -0.3333314528f, 0.1999355085f,  -0.1420889944f, 0.1065626393f,
                              -0.0752896400f, 0.0429096138f,  -0.0161657367f, 0.0028662257f};
  const __m512 square = _mm512_mul_ps(t, t);
  __m512 sum = _mm512_set1_ps(SERIES[8]);
#pragma GCC unroll 8
  for (int i = 7; i >= 0; --i) sum = _mm512_fmadd_ps(sum, square, _mm512_set1_ps(SERIES[i]));
  return _mm512_mul_ps(_mm512_mul_ps(sum, t), _mm512_set1_ps(0.318309886f));
}

// the angle of a direction or its opposite, in bins: [0, BINS]
inline __m512 bins_of(__m512 dx, __m512 dy) {
  const __m512 x = _mm512_abs_ps(dx), y = _mm512_abs_ps(dy);
  const __m512 larger = _mm512_max_ps(x, y), zero = _mm512_setzero_ps();
  // nowhere for no gradient at all, which counts for nothing
  const __mmask16 some = _mm512_cmp_ps_mask(larger, zero, _CMP_GT_OQ);
  __m512 turn = arc_of_pi(_mm512_maskz_div_ps(some, _mm512_min_ps(x, y), larger));
  turn = _mm512_mask_sub_ps(turn, _mm512_cmp_ps_mask(y, x, _CMP_GT_OQ), _mm512_set1_ps(0.5f), turn);
  const __mmask16 falling =
      _mm512_cmp_ps_mask(dx, zero, _CMP_LT_OQ) ^ _mm512_cmp_ps_mask(dy, zero, _CMP_LT_OQ);
  turn = _mm512_mask_sub_ps(turn, falling, _mm512_set1_ps(1.0f), turn);
  return _mm512_mul_ps(turn, _mm512_set1_ps(float(BINS)));
}

// One image with a pixel more on every side, copied from its border.
class Padded {
 public:
  Padded(const float* image, int64_t side) : side_(side), width_(side + 2), pixels_(size_t(CHANNELS * width_ * width_)) {
    for (int64_t c = 0; c < CHANNELS; ++c)
      for (int64_t y = 0; y < width_; ++y) {
        const float* from = image + (c * side + std::clamp<int64_t>(y - 1, 0, side - 1)) * side;
        float* to = pixels_.data() + (c * width_ + y) * width_;
        std::copy(from, from + side, to + 1);
        to[0] = from[0], to[side + 1] = from[side - 1];
      }
  }

  // where each pixel of a row lies between two bins, and the strength of its gradient: that of its strongest channel
  void gradients(int64_t y, float* bins, float* strength) const {
    for (int64_t x = 0; x < side_; x += LANES) {
      const __mmask16 lanes = first_lanes(side_ - x);
      __m512 best = _mm512_set1_ps(-1.0f), best_dx = best, best_dy = best;
      for (int64_t c = 0; c < CHANNELS; ++c) {
        const float* row = pixels_.data() + (c * width_ + y + 1) * width_ + x;
        const __m512 dx = _mm512_sub_ps(load(row + 2, lanes), load(row, lanes));
        const __m512 dy = _mm512_sub_ps(load(row + width_ + 1, lanes), load(row - width_ + 1, lanes));
        const __m512 energy = _mm512_fmadd_ps(dx, dx, _mm512_mul_ps(dy, dy));
        const __mmask16 more = _mm512_cmp_ps_mask(energy, best, _CMP_GT_OQ);
        best = _mm512_mask_mov_ps(best, more, energy);
        best_dx = _mm512_mask_mov_ps(best_dx, more, dx);
        best_dy = _mm512_mask_mov_ps(best_dy, more, dy);
      }
      store(bins + x, bins_of(best_dx, best_dy), lanes);
      store(strength + x, _mm512_sqrt_ps(best), lanes);
    }
  }

 private:
  int64_t side_, width_;
  std::vector<float> pixels_;
};

// histograms, already means: over the energy of the cell and those around it, and the root
inline void normalise_cells(float* histogram, int64_t cells, float epsilon) {
  const int64_t area = cells * cells;
  std::vector<float> energy(size_t(area), 0.0f);
  for (int64_t b = 0; b < BINS; ++b)
    for (int64_t i = 0; i < area; ++i) energy[size_t(i)] += histogram[b * area + i];
  for (int64_t y = 0; y < cells; ++y)
    for (int64_t x = 0; x < cells; ++x) {
      float sum = 0.0f;
      int64_t num = 0;
      for (int64_t v = std::max<int64_t>(y - 1, 0); v <= std::min(y + 1, cells - 1); ++v)
        for (int64_t u = std::max<int64_t>(x - 1, 0); u <= std::min(x + 1, cells - 1); ++u, ++num)
          sum += energy[size_t(v * cells + u)];
      const float around = sum / float(num) + epsilon;
      for (int64_t b = 0; b < BINS; ++b) {
        float& share = histogram[b * area + y * cells + x];
        share = std::sqrt(share / around);
      }
    }
}

// one image to [BINS + 3, cells, cells]
inline void cells_of(const float* image, int64_t side, int64_t cell, float epsilon, float* out) {
  // a cell's bins side by side; behind the last bin its neighbour, which is the first again, and one for rounding
  constexpr int64_t WIDTH = BINS + 2;
  const int64_t cells = side / cell, area = cells * cells;
  float* colour = out + BINS * area;
  std::fill(colour, colour + CHANNELS * area, 0.0f);
  const Padded padded(image, side);
  std::vector<float> sums(size_t(area * WIDTH), 0.0f), bins(size_t(side), 0.0f), strength(size_t(side), 0.0f);
  for (int64_t y = 0; y < side; ++y) {
    padded.gradients(y, bins.data(), strength.data());
    const int64_t row = y / cell * cells;
    for (int64_t i = 0, x = 0; i < cells; ++i) {
      float* sum = sums.data() + (row + i) * WIDTH;
      for (const int64_t end = x + cell; x < end; ++x) {
        // the two nearest bins share a pixel
        const int low = int(bins[size_t(x)]);
        const float share = strength[size_t(x)] * (bins[size_t(x)] - float(low));
        sum[low] += strength[size_t(x)] - share;
        sum[low + 1] += share;
      }
    }
    for (int64_t c = 0; c < CHANNELS; ++c) {
      const float* from = image + (c * side + y) * side;
      for (int64_t i = 0; i < cells; ++i)
        for (int64_t x = 0; x < cell; ++x) colour[c * area + row + i] += from[i * cell + x];
    }
  }
  const float pixels = float(cell * cell);
  for (int64_t i = 0; i < area; ++i) {
    float* sum = sums.data() + i * WIDTH;
    sum[0] += sum[BINS], sum[1] += sum[BINS + 1];
    for (int64_t b = 0; b < BINS; ++b) out[b * area + i] = sum[b] / pixels;
    for (int64_t c = 0; c < CHANNELS; ++c) colour[c * area + i] /= pixels;
  }
  normalise_cells(out, cells, epsilon);
}

// images: [num_images, 3, side, side]; out: [num_images, BINS + 3, side / cell, side / cell]
inline void gradient_cells(const float* images, int64_t num_images, int64_t side, int64_t cell, float epsilon,
                           int64_t num_threads, float* out) {
  const int64_t cells = side / cell;
  parallel(num_threads, num_images, num_images * side * side * 64, [&](int64_t n) {
    cells_of(images + n * CHANNELS * side * side, side, cell, epsilon, out + n * (BINS + CHANNELS) * cells * cells);
  });
}
