/* Causal attention forward and backward for heads of 32 units in bfloat16, on CPUs with AMX tiles.
 *
 *     mini_attention           out = softmax(q k^T / sqrt(32), causal) v, and the rows' log-sum-exp
 *     mini_attention_backward  gradients of q, k, v
 *
 * q, k, v, out are [N, T, heads * 32]; one thread works on one head of one sequence at a time, so no
 * score is ever written to memory but for 16 rows. Compiled by attention.py when it is first used.
 */

#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { D = 32, ROWS = 16, TILE = 512 }; /* a tile: 16 rows of 32 bfloat16 */
enum { REQUEST_PERMISSION = 0x1023, TILE_DATA = 18 };

typedef uint16_t half; /* the bits of a bfloat16 */

static inline float widen(half x) {
    uint32_t bits = (uint32_t)x << 16;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

static inline __m512 exponential(__m512 x) {
    x = _mm512_max_ps(x, _mm512_set1_ps(-87.0f));
    __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), 0);
    __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
    r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
    __m512 p = _mm512_set1_ps(8.3333e-3f);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(4.16666e-2f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.16666667f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.5f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(p, n);
}

/* Lanes of a block of 16 columns, from column `at`, that are before column `end`. */
static inline __mmask16 before(int64_t at, int64_t end) {
    return end - at >= 16 ? 0xffff : end <= at ? 0 : (__mmask16)((1u << (end - at)) - 1);
}

static inline void store_halves(half *to, __m512 x) {
    _mm256_storeu_si256((__m256i *)to, (__m256i)_mm512_cvtneps_pbh(x));
}

/* Rows of one head, padded with zeros to `padded` rows. */
static void gather(half *to, const half *from, int64_t t, int64_t padded, int64_t stride) {
    for (int64_t i = 0; i < t; i++) memcpy(to + i * D, from + i * stride, D * sizeof(half));
    memset(to + t * D, 0, (padded - t) * D * sizeof(half));
}

/* x^T as right operands: of every 16 rows one tile, whose row holds a pair of units of each. */
static void pack_transposed(half *to, const half *x, int64_t padded) {
    for (int64_t block = 0; block < padded / ROWS; block++) {
        const uint32_t *from = (const uint32_t *)(x + block * TILE);
        uint32_t *tile = (uint32_t *)(to + block * TILE);
        for (int row = 0; row < 16; row++)
            for (int unit = 0; unit < 16; unit++) tile[unit * 16 + row] = from[row * 16 + unit];
    }
}

/* x as right operands: of every 32 rows two tiles, of 16 units each; a tile's row is two rows. */
static void pack_rows(half *to, const half *x, int64_t padded) {
    for (int64_t group = 0; group < padded / 32; group++)
        for (int pair = 0; pair < 16; pair++) {
            const half *low = x + (group * 32 + 2 * pair) * D, *high = low + D;
            for (int side = 0; side < 2; side++) {
                uint32_t *row = (uint32_t *)(to + (2 * group + side) * TILE) + pair * 16;
                for (int n = 0; n < 16; n++)
                    row[n] = low[16 * side + n] | (uint32_t)high[16 * side + n] << 16;
            }
        }
}

/* Products of 16 rows (a tile) with blocks first <= j < end of packed tiles; [16, padded]. */
static void scores(
    float *to, const half *rows, const half *packed, int64_t first, int64_t end, int64_t padded) {
    _tile_loadd(6, rows, 64);
    int64_t j = first;
    for (; j + 1 < end; j += 2) {
        _tile_zero(0);
        _tile_zero(1);
        _tile_loadd(2, packed + j * TILE, 64);
        _tile_loadd(3, packed + (j + 1) * TILE, 64);
        _tile_dpbf16ps(0, 6, 2);
        _tile_dpbf16ps(1, 6, 3);
        _tile_stored(0, to + j * 16, padded * 4);
        _tile_stored(1, to + (j + 1) * 16, padded * 4);
    }
    if (j < end) {
        _tile_zero(0);
        _tile_loadd(2, packed + j * TILE, 64);
        _tile_dpbf16ps(0, 6, 2);
        _tile_stored(0, to + j * 16, padded * 4);
    }
}

/* Weights [16, padded] times groups first <= g < end of packed rows; [16, 32]. */
static void mix(
    float *to, const half *weights, const half *packed, int64_t first, int64_t end,
    int64_t padded) {
    _tile_zero(0);
    _tile_zero(1);
    for (int64_t g = first; g < end; g++) {
        _tile_loadd(6, weights + g * 32, padded * 2);
        _tile_loadd(2, packed + 2 * g * TILE, 64);
        _tile_loadd(3, packed + (2 * g + 1) * TILE, 64);
        _tile_dpbf16ps(0, 6, 2);
        _tile_dpbf16ps(1, 6, 3);
    }
    _tile_stored(0, to, D * 4);
    _tile_stored(1, to + 16, D * 4);
}

static void put(half *to, const float *rows, const float *factor, int64_t count, int64_t stride) {
    for (int64_t r = 0; r < count; r++)
        for (int side = 0; side < 2; side++) {
            __m512 x = _mm512_loadu_ps(rows + r * D + 16 * side);
            if (factor) x *= _mm512_set1_ps(factor[r]);
            store_halves(to + r * stride + 16 * side, x);
        }
}

static void configure(void) {
    struct {
        uint8_t palette, start, reserved[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } config = {.palette = 1};
    for (int tile = 0; tile < 8; tile++) config.bytes[tile] = 64, config.rows[tile] = 16;
    _tile_loadconfig(&config);
}

static void *room(size_t bytes) { return aligned_alloc(64, (bytes + 63) & ~(size_t)63); }

static void forward_head(
    half *out, float *lse, const half *q, const half *k, const half *v, int64_t t, int64_t stride,
    half *space) {
    int64_t padded = (t + 31) & ~31;
    half *own = space, *keys = own + padded * D, *values = keys + padded * D;
    half *weights = values + padded * D;
    float *s = (float *)(weights + ROWS * padded), mixed[ROWS * D], factor[ROWS];
    const float scale = 1 / sqrtf(D);
    gather(own, k, t, padded, stride);
    pack_transposed(keys, own, padded);
    gather(own, v, t, padded, stride);
    pack_rows(values, own, padded);
    gather(own, q, t, padded, stride);
    for (int64_t i = 0; i * ROWS < t; i++) {
        int64_t count = t - i * ROWS < ROWS ? t - i * ROWS : ROWS, end = ((i + 2) / 2) * 32;
        scores(s, own + i * TILE, keys, 0, i + 1, padded);
        for (int64_t r = 0; r < ROWS; r++) {
            float *row = s + r * padded;
            int64_t seen = i * ROWS + r + 1;
            __m512 most = _mm512_set1_ps(-INFINITY), sum = _mm512_setzero_ps();
            for (int64_t c = 0; c < seen; c += 16)
                most = _mm512_mask_max_ps(
                    most, before(c, seen), most, _mm512_loadu_ps(row + c));
            float top = _mm512_reduce_max_ps(most);
            for (int64_t c = 0; c < end; c += 16) {
                __mmask16 on = before(c, seen);
                __m512 x = _mm512_maskz_loadu_ps(on, row + c);
                __m512 p = exponential((x - _mm512_set1_ps(top)) * _mm512_set1_ps(scale));
                p = _mm512_maskz_mov_ps(on, p);
                sum += p;
                store_halves(weights + r * padded + c, p);
            }
            float total = _mm512_reduce_add_ps(sum);
            factor[r] = 1 / total;
            if (r < count) lse[i * ROWS + r] = top * scale + logf(total);
        }
        mix(mixed, weights, values, 0, end / 32, padded);
        put(out + i * ROWS * stride, mixed, factor, count, stride);
    }
}

static void backward_head(
    half *dq, half *dk, half *dv, const half *dout, const half *q, const half *k, const half *v,
    const half *out, const float *lse, int64_t t, int64_t stride, half *space) {
    int64_t padded = (t + 31) & ~31, size = padded * D, blocks = (t + 15) / 16;
    half *qs = space, *ks = qs + size, *vs = ks + size, *gs = vs + size;
    half *q_t = gs + size, *k_t = q_t + size, *v_t = k_t + size, *g_t = v_t + size;
    half *q_r = g_t + size, *k_r = q_r + size, *g_r = k_r + size;
    half *p16 = g_r + size, *ds16 = p16 + ROWS * padded;
    float *s = (float *)(ds16 + ROWS * padded), *dp = s + ROWS * padded;
    float *delta = dp + ROWS * padded, *logs = delta + padded, mixed[ROWS * D];
    const __m512 scale = _mm512_set1_ps(1 / sqrtf(D));
    gather(qs, q, t, padded, stride);
    gather(ks, k, t, padded, stride);
    gather(vs, v, t, padded, stride);
    gather(gs, dout, t, padded, stride);
    pack_transposed(q_t, qs, padded);
    pack_transposed(k_t, ks, padded);
    pack_transposed(v_t, vs, padded);
    pack_transposed(g_t, gs, padded);
    pack_rows(q_r, qs, padded);
    pack_rows(k_r, ks, padded);
    pack_rows(g_r, gs, padded);
    memset(delta, 0, padded * 4);
    memset(logs, 0, padded * 4);
    memcpy(logs, lse, t * 4);
    for (int64_t i = 0; i < t; i++)
        for (int n = 0; n < D; n++)
            delta[i] += widen(dout[i * stride + n]) * widen(out[i * stride + n]);

    for (int64_t i = 0; i < blocks; i++) { /* rows of queries: dq */
        int64_t count = t - i * ROWS < ROWS ? t - i * ROWS : ROWS, end = ((i + 2) / 2) * 32;
        scores(s, qs + i * TILE, k_t, 0, i + 1, padded);
        scores(dp, gs + i * TILE, v_t, 0, i + 1, padded);
        for (int64_t r = 0; r < ROWS; r++) {
            int64_t at = i * ROWS + r, seen = at + 1;
            __m512 log = _mm512_set1_ps(logs[at]), less = _mm512_set1_ps(delta[at]);
            for (int64_t c = 0; c < end; c += 16) {
                __mmask16 on = before(c, seen);
                __m512 x = _mm512_maskz_loadu_ps(on, s + r * padded + c);
                __m512 d = _mm512_maskz_loadu_ps(on, dp + r * padded + c);
                __m512 ds = exponential(x * scale - log) * (d - less) * scale;
                store_halves(ds16 + r * padded + c, _mm512_maskz_mov_ps(on, ds));
            }
        }
        mix(mixed, ds16, k_r, 0, end / 32, padded);
        put(dq + i * ROWS * stride, mixed, NULL, count, stride);
    }
    for (int64_t j = 0; j < blocks; j++) { /* rows of keys: dk, dv */
        int64_t count = t - j * ROWS < ROWS ? t - j * ROWS : ROWS, from = j / 2 * 32;
        scores(s, ks + j * TILE, q_t, j, padded / 16, padded);
        scores(dp, vs + j * TILE, g_t, j, padded / 16, padded);
        for (int64_t r = 0; r < ROWS; r++) {
            int64_t at = j * ROWS + r;
            for (int64_t c = from; c < padded; c += 16) {
                __mmask16 on = before(c, t) & ~before(c, at);
                __m512 x = _mm512_maskz_loadu_ps(on, s + r * padded + c);
                __m512 d = _mm512_maskz_loadu_ps(on, dp + r * padded + c);
                __m512 p = exponential(x * scale - _mm512_loadu_ps(logs + c));
                p = _mm512_maskz_mov_ps(on, p);
                store_halves(p16 + r * padded + c, p);
                store_halves(ds16 + r * padded + c, p * (d - _mm512_loadu_ps(delta + c)) * scale);
            }
        }
        mix(mixed, p16, g_r, from / 32, padded / 32, padded);
        put(dv + j * ROWS * stride, mixed, NULL, count, stride);
        mix(mixed, ds16, q_r, from / 32, padded / 32, padded);
        put(dk + j * ROWS * stride, mixed, NULL, count, stride);
    }
}

/* 0 if the kernel may use tiles. */
int mini_attention_ready(void) {
    return syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) ? -1 : 0;
}

/* A thread's tiles are left as they were found: oneDNN remembers how it has set them. */
#define EACH_HEAD(halves_a_row, work)                                                    \
    int64_t padded = (t + 31) & ~31, stride = heads * D;                                 \
    _Pragma("omp parallel num_threads(threads)") {                                       \
        char before_[64] __attribute__((aligned(64)));                                   \
        half *space = room((halves_a_row) * padded * sizeof(half));                      \
        _tile_storeconfig(before_);                                                      \
        configure();                                                                     \
        _Pragma("omp for schedule(static)") for (int64_t i = 0; i < n * heads; i++) {    \
            int64_t at = i / heads * t * stride + i % heads * D;                         \
            work;                                                                        \
        }                                                                                \
        _tile_loadconfig(before_);                                                       \
        free(space);                                                                     \
    }

void mini_attention(
    half *out, float *lse, const half *q, const half *k, const half *v, int64_t n, int64_t t,
    int64_t heads, int64_t threads) {
    EACH_HEAD(
        3 * D + 3 * ROWS + 8,
        forward_head(out + at, lse + i * t, q + at, k + at, v + at, t, stride, space))
}

void mini_attention_backward(
    half *dq, half *dk, half *dv, const half *dout, const half *q, const half *k, const half *v,
    const half *out, const float *lse, int64_t n, int64_t t, int64_t heads, int64_t threads) {
    EACH_HEAD(
        11 * D + 6 * ROWS + 16,
        backward_head(
            dq + at, dk + at, dv + at, dout + at, q + at, k + at, v + at, out + at, lse + i * t, t,
            stride, space))
}
