/* Pillow's resize of RGB pictures with a convolution filter, with the same bits, sixteen values at a time.

   Each side is resized on its own, width first. An output is the sum of the inputs within the filter's reach, each
   times a weight in fixed point (22 bits behind the point), rounded to a byte. Inputs and weights are whole numbers, so
   any order of the sum has the same bits; the weights are made in double precision, step by step as Pillow makes them.

       rows --16 at a time, transposed--> sums over columns --transposed back--> middle --sums over rows--> out */

#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define LANES 16
#define CHANNELS 3
#define POINT 22

#define INLINE static inline __attribute__((always_inline))

/* For each output: the first input, how many, and their weights, `reach` apart. */
typedef struct {
    int64_t reach;
    int64_t *first;
    int64_t *count;
    int32_t *weights;
} Reach;

static double bilinear(double x) {
    x = fabs(x);
    return x < 1.0 ? 1.0 - x : 0.0;
}

/* Keys' cubic with a = -1/2. */
static double bicubic(double x) {
    const double a = -0.5;
    x = fabs(x);
    if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
    if (x < 2.0) return (((x - 5) * x + 8) * x - 4) * a;
    return 0.0;
}

static void forget(Reach *reach) {
    free(reach->first);
    free(reach->count);
    free(reach->weights);
}

/* What the outputs are made of when [begin, end) of `num_in` inputs becomes `num_out` outputs. */
static int plan(int64_t num_in, float begin, float end, int64_t num_out, int64_t cubic, Reach *reach) {
    const double scale = (double)(end - begin) / num_out;
    const double stretch = scale < 1.0 ? 1.0 : scale;
    const double support = (cubic ? 2.0 : 1.0) * stretch;
    reach->reach = (int64_t)ceil(support) * 2 + 1;
    reach->first = malloc(num_out * sizeof(int64_t));
    reach->count = malloc(num_out * sizeof(int64_t));
    reach->weights = malloc(num_out * reach->reach * sizeof(int32_t));
    double *exact = malloc(reach->reach * sizeof(double));
    if (!reach->first || !reach->count || !reach->weights || !exact) {
        free(exact);
        return 1;
    }
    for (int64_t out = 0; out < num_out; out++) {
        const double center = begin + (out + 0.5) * scale;
        int64_t first = (int64_t)(center - support + 0.5);
        int64_t past = (int64_t)(center + support + 0.5);
        if (first < 0) first = 0;
        if (past > num_in) past = num_in;
        const double shrink = 1.0 / stretch;
        double total = 0.0;
        for (int64_t at = 0; at < past - first; at++) {
            const double x = (at + first - center + 0.5) * shrink;
            exact[at] = cubic ? bicubic(x) : bilinear(x);
            total += exact[at];
        }
        for (int64_t at = 0; at < past - first; at++) {
            const double share = (total != 0.0 ? exact[at] / total : exact[at]) * (1 << POINT);
            reach->weights[out * reach->reach + at] = (int32_t)(share < 0 ? share - 0.5 : share + 0.5);
        }
        reach->first[out] = first;
        reach->count[out] = past - first;
    }
    free(exact);
    return 0;
}

/* Four times dealt like two halves of a pack of cards, sixteen rows are sixteen columns. */
INLINE void transpose(__m128i rows[LANES]) {
    __m128i dealt[LANES];
    for (int round = 0; round < 4; round++) {
        for (int i = 0; i < LANES / 2; i++) {
            dealt[2 * i] = _mm_unpacklo_epi8(rows[i], rows[i + LANES / 2]);
            dealt[2 * i + 1] = _mm_unpackhi_epi8(rows[i], rows[i + LANES / 2]);
        }
        memcpy(rows, dealt, sizeof dealt);
    }
}

/* The sum over `count` vectors, `stride` apart, as bytes. */
INLINE __m128i weighted(const __m128i *from, int64_t stride, int64_t count, const int32_t *weights) {
    __m256i low = _mm256_set1_epi32(1 << (POINT - 1)), high = low;
    for (int64_t at = 0; at < count; at++) {
        const __m256i weight = _mm256_set1_epi32(weights[at]);
        const __m128i bytes = from[at * stride];
        low = _mm256_add_epi32(low, _mm256_mullo_epi32(_mm256_cvtepu8_epi32(bytes), weight));
        high = _mm256_add_epi32(
            high, _mm256_mullo_epi32(_mm256_cvtepu8_epi32(_mm_unpackhi_epi64(bytes, bytes)), weight));
    }
    low = _mm256_srai_epi32(low, POINT);
    high = _mm256_srai_epi32(high, POINT);
    /* packing clips to what fits, and mixes halves: first to 16 bits, then, in order again, to bytes */
    const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(low, high), 0xd8);
    return _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
}

/* Whether this processor has what the file was compiled for. */
int can_run(void) {
    return __builtin_cpu_supports("avx2");
}

/* `in`: [height, width, 3]; `out`: [out_height, out_width, 3]; box: left, top, right, bottom. 1: no memory. */
int resize_rgb(const uint8_t *in, int64_t width, int64_t height, const float *box, int64_t out_width,
               int64_t out_height, int64_t cubic, uint8_t *out) {
    Reach across = {0}, down = {0};
    __m128i *columns = NULL, *sums = NULL, *middle = NULL;
    int failed = 1;
    const int64_t in_bytes = width * CHANNELS, out_bytes = out_width * CHANNELS;
    const int64_t in_groups = (in_bytes + LANES - 1) / LANES, out_groups = (out_bytes + LANES - 1) / LANES;
    if (plan(width, box[0], box[2], out_width, cubic, &across)) goto end;
    if (plan(height, box[1], box[3], out_height, cubic, &down)) goto end;
    const int64_t top = down.first[0];
    const int64_t num_rows = down.first[out_height - 1] + down.count[out_height - 1] - top;
    const int64_t blocks = (num_rows + LANES - 1) / LANES;
    if (posix_memalign((void **)&columns, 64, in_groups * LANES * sizeof(__m128i))) goto end;
    if (posix_memalign((void **)&sums, 64, out_groups * LANES * sizeof(__m128i))) goto end;
    if (posix_memalign((void **)&middle, 64, blocks * LANES * out_groups * sizeof(__m128i))) goto end;
    memset(sums, 0, out_groups * LANES * sizeof(__m128i));

    for (int64_t block = 0; block < blocks; block++) {
        const int64_t left = num_rows - block * LANES, rows = left < LANES ? left : LANES;
        const uint8_t *start = in + (top + block * LANES) * in_bytes;
        for (int64_t group = 0; group < in_groups; group++) {
            const int64_t rest = in_bytes - group * LANES, bytes = rest < LANES ? rest : LANES;
            __m128i tile[LANES] = {{0}};
            if (rows == LANES && bytes == LANES) {
                for (int row = 0; row < LANES; row++) {
                    memcpy(&tile[row], start + row * in_bytes + group * LANES, LANES);
                }
            } else {
                for (int row = 0; row < rows; row++) {
                    memcpy(&tile[row], start + row * in_bytes + group * LANES, bytes);
                }
            }
            transpose(tile);
            memcpy(columns + group * LANES, tile, sizeof tile);
        }
        for (int64_t x = 0; x < out_width; x++) {
            const __m128i *from = columns + across.first[x] * CHANNELS;
            for (int channel = 0; channel < CHANNELS; channel++) {
                sums[x * CHANNELS + channel] =
                    weighted(from + channel, CHANNELS, across.count[x], across.weights + x * across.reach);
            }
        }
        for (int64_t group = 0; group < out_groups; group++) {
            __m128i tile[LANES];
            memcpy(tile, sums + group * LANES, sizeof tile);
            transpose(tile);
            for (int row = 0; row < LANES; row++) middle[(block * LANES + row) * out_groups + group] = tile[row];
        }
    }
    for (int64_t y = 0; y < out_height; y++) {
        const __m128i *from = middle + (down.first[y] - top) * out_groups;
        for (int64_t group = 0; group < out_groups; group++) {
            const int64_t rest = out_bytes - group * LANES;
            const __m128i done = weighted(from + group, out_groups, down.count[y], down.weights + y * down.reach);
            memcpy(out + y * out_bytes + group * LANES, &done, rest < LANES ? rest : LANES);
        }
    }
    failed = 0;
end:
    forget(&across);
    forget(&down);
    free(columns);
    free(sums);
    free(middle);
    return failed;
}
