/* Low-rank products for a few tokens on a CPU; see native.py for what this owns and why.
 *
 *     adb_lora    y[b, t] += sum_k w[b, (t,) k] * (x[b, t] . A[slot]) * B[slot]
 *     adb_gated   the same, with w from a gate that looks at each token
 *
 * Plain C with the vector types of GCC and clang: no header of Python or torch. Numbers are read as
 * float, bfloat16 or int8 and added up as float. Distances are in numbers, not bytes.
 */

#include <math.h>
#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

enum { FLOAT, BFLOAT16, INT8 };
enum { LANES = 16, BLOCK = 64 }; /* rank rows whose products are held at once */

typedef float floats __attribute__((vector_size(4 * LANES)));
typedef uint32_t words __attribute__((vector_size(4 * LANES)));
typedef int32_t ints __attribute__((vector_size(4 * LANES)));
typedef uint16_t halves __attribute__((vector_size(2 * LANES)));
typedef int16_t shorts __attribute__((vector_size(2 * LANES)));
typedef int8_t bytes __attribute__((vector_size(LANES)));

/* Fields are in the order of native.py's Bank. */
typedef struct {
    const char *a, *b;                /* (S, R, H1) and (S, R, H2) */
    int64_t a_slot, a_row, b_slot, b_row; /* distances from one slot, one rank row, to the next */
    const int64_t *ranks;             /* (S,) rank rows that act, or NULL */
    const float *a_scale, *b_scale;   /* (S, R), or NULL */
    int64_t rank, in, out, dtype;
} bank;

/* Fields are in the order of native.py's Tokens. */
typedef struct {
    char *y;
    const char *x;
    int64_t y_row, y_token, x_row, x_token;
    int64_t rows, tokens, dtype;
    float scale;
} tokens;

/* Fields are in the order of native.py's Gate. */
typedef struct {
    const uint8_t *live, *fixed, *learned; /* (S, K), (S,), (S, K) or NULL */
    const int64_t *top_k;                  /* (S,) */
    const float *temperature;              /* (S,) */
    const float *cores, *offset;           /* (S, K, R), (S, K), or NULL */
    const char *vectors;                   /* (S, K, H1) or NULL */
    int64_t vectors_dtype;
    float *logits, *weights;               /* (S, T, K), written */
    int64_t deltas;
} gate;

INLINE int64_t size_of(int64_t dtype) { return dtype == FLOAT ? 4 : dtype == BFLOAT16 ? 2 : 1; }

INLINE floats load(const char *p, int64_t at, int dtype) {
    if (dtype == FLOAT) {
        floats v;
        memcpy(&v, p + 4 * at, sizeof v);
        return v;
    }
    if (dtype == BFLOAT16) {
        halves v;
        memcpy(&v, p + 2 * at, sizeof v);
        return (floats)(__builtin_convertvector(v, words) << 16);
    }
    bytes v; /* in two steps, which GCC 12 has instructions for */
    memcpy(&v, p + at, sizeof v);
    return __builtin_convertvector(
        __builtin_convertvector(__builtin_convertvector(v, shorts), ints), floats);
}

/* The nearest bfloat16 of each number, ties to even, in the lower half. */
INLINE words rounded(floats v) {
    words bits = (words)v, up = bits + 0x7fff + ((bits >> 16) & 1);
    words nan = (words)(v != v); /* which rounding could turn into infinity */
    return (nan & (bits >> 16 | 64)) | (~nan & up >> 16);
}

INLINE void store(char *p, int64_t at, floats v, int dtype) {
    if (dtype == FLOAT) {
        memcpy(p + 4 * at, &v, sizeof v);
        return;
    }
    halves narrow = __builtin_convertvector(rounded(v), halves);
    memcpy(p + 2 * at, &narrow, sizeof narrow);
}

#if defined(__clang__)
#define MIX(v, w, ...) __builtin_shufflevector(v, w, __VA_ARGS__)
#else
#define MIX(v, w, ...) __builtin_shuffle(v, w, (ints){__VA_ARGS__})
#endif

/* 2 * LANES numbers. "Apart", those at even places come first: bfloat16 is had so by a shift and a
 * mask of each pair, where spreading neighbours over the lanes takes several shuffles. */
INLINE void load_two(const char *p, int64_t at, int dtype, int apart, floats v[2]) {
    if (!apart) {
        v[0] = load(p, at, dtype), v[1] = load(p, at + LANES, dtype);
    } else if (dtype == BFLOAT16) {
        words pairs;
        memcpy(&pairs, p + 2 * at, sizeof pairs);
        v[0] = (floats)(pairs << 16), v[1] = (floats)(pairs & 0xffff0000u);
    } else {
        floats first = load(p, at, dtype), second = load(p, at + LANES, dtype);
        v[0] = MIX(first, second, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
        v[1] = MIX(first, second, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
    }
}

INLINE void store_two(char *p, int64_t at, const floats v[2], int dtype, int apart) {
    if (!apart) {
        store(p, at, v[0], dtype), store(p, at + LANES, v[1], dtype);
    } else if (dtype == BFLOAT16) {
        words pairs = rounded(v[0]) | rounded(v[1]) << 16;
        memcpy(p + 2 * at, &pairs, sizeof pairs);
    } else {
        floats first = MIX(v[0], v[1], 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
        floats second = MIX(v[0], v[1], 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
        store(p, at, first, dtype), store(p, at + LANES, second, dtype);
    }
}

/* The last n numbers of a row, zeros behind them. */
INLINE floats load_some(const char *p, int64_t at, int64_t n, int dtype) {
    char buffer[4 * LANES] = {0};
    memcpy(buffer, p + at * size_of(dtype), n * size_of(dtype));
    return load(buffer, 0, dtype);
}

INLINE void store_some(char *p, int64_t at, int64_t n, floats v, int dtype) {
    char buffer[4 * LANES];
    store(buffer, 0, v, dtype);
    memcpy(p + at * size_of(dtype), buffer, n * size_of(dtype));
}

INLINE float sum(const floats *v) {
    typedef float eight __attribute__((vector_size(32)));
    typedef float four __attribute__((vector_size(16)));
    eight e[2];
    four f[2];
    memcpy(e, v, sizeof e);
    e[0] += e[1];
    memcpy(f, e, sizeof f);
    f[0] += f[1];
    return f[0][0] + f[0][1] + (f[0][2] + f[0][3]);
}

/* h[j] = x . rows[j] for n rows, n known when compiled. */
INLINE void dots(const char *x, int xt, const char *const *rows, int wt, int n, int64_t width,
                 float *h) {
    floats sums[8][2];
    int64_t i = 0;
    for (int j = 0; j < n; j++) sums[j][0] = sums[j][1] = (floats){0};
    for (; i + 2 * LANES <= width; i += 2 * LANES) {
        floats v[2], row[2];
        load_two(x, i, xt, wt == BFLOAT16, v);
        for (int j = 0; j < n; j++) {
            load_two(rows[j], i, wt, wt == BFLOAT16, row);
            sums[j][0] += v[0] * row[0];
            sums[j][1] += v[1] * row[1];
        }
    }
    for (; i < width; i += LANES) {
        int64_t left = width - i < LANES ? width - i : LANES;
        floats v = load_some(x, i, left, xt);
        for (int j = 0; j < n; j++) sums[j][0] += v * load_some(rows[j], i, left, wt);
    }
    for (int j = 0; j < n; j++) {
        floats both = sums[j][0] + sums[j][1];
        h[j] = sum(&both);
    }
}

/* h = x . each of n rows */
INLINE void shrink(const char *x, int xt, const char *const *rows, int wt, int64_t n, int64_t width,
                   float *h) {
    int64_t j = 0;
    for (; j + 8 <= n; j += 8) dots(x, xt, rows + j, wt, 8, width, h + j);
    if (j + 4 <= n) dots(x, xt, rows + j, wt, 4, width, h + j), j += 4;
    if (j + 2 <= n) dots(x, xt, rows + j, wt, 2, width, h + j), j += 2;
    if (j < n) dots(x, xt, rows + j, wt, 1, width, h + j);
}

/* y += sum_j h[j] * rows[j] */
INLINE void expand(char *y, int xt, const char *const *rows, int wt, int64_t n, int64_t width,
                   const float *h) {
    const int apart = wt == BFLOAT16;
    int64_t i = 0;
    for (; i + 4 * LANES <= width; i += 4 * LANES) {
        floats v[2], w[2], row[2];
        load_two(y, i, xt, apart, v), load_two(y, i + 2 * LANES, xt, apart, w);
        for (int64_t j = 0; j < n; j++) {
            load_two(rows[j], i, wt, apart, row);
            v[0] += h[j] * row[0], v[1] += h[j] * row[1];
            load_two(rows[j], i + 2 * LANES, wt, apart, row);
            w[0] += h[j] * row[0], w[1] += h[j] * row[1];
        }
        store_two(y, i, v, xt, apart), store_two(y, i + 2 * LANES, w, xt, apart);
    }
    for (; i < width; i += LANES) {
        int64_t left = width - i < LANES ? width - i : LANES;
        floats v = load_some(y, i, left, xt);
        for (int64_t j = 0; j < n; j++) v += h[j] * load_some(rows[j], i, left, wt);
        store_some(y, i, left, v, xt);
    }
}

typedef void shrinker(const char *x, const char *const *rows, int64_t n, int64_t width, float *h);
typedef void expander(char *y, const char *const *rows, int64_t n, int64_t width, const float *h);

/* The two loops for a pair of dtypes, compiled for one kind of processor. */
#define LOOPS(name, xt, wt, target)                                                                \
    target static void shrink_##name(const char *x, const char *const *rows, int64_t n,            \
                                     int64_t width, float *h) {                                    \
        shrink(x, xt, rows, wt, n, width, h);                                                      \
    }                                                                                              \
    target static void expand_##name(char *y, const char *const *rows, int64_t n, int64_t width,   \
                                     const float *h) {                                             \
        expand(y, xt, rows, wt, n, width, h);                                                      \
    }
#define ALL_LOOPS(kind, target)                                                                    \
    LOOPS(kind##_ff, FLOAT, FLOAT, target)                                                         \
    LOOPS(kind##_fb, FLOAT, BFLOAT16, target)                                                      \
    LOOPS(kind##_fi, FLOAT, INT8, target)                                                          \
    LOOPS(kind##_bf, BFLOAT16, FLOAT, target)                                                      \
    LOOPS(kind##_bb, BFLOAT16, BFLOAT16, target)                                                   \
    LOOPS(kind##_bi, BFLOAT16, INT8, target)                                                       \
    static shrinker *const kind##_shrinkers[2][3] = {                                              \
        {shrink_##kind##_ff, shrink_##kind##_fb, shrink_##kind##_fi},                              \
        {shrink_##kind##_bf, shrink_##kind##_bb, shrink_##kind##_bi}};                             \
    static expander *const kind##_expanders[2][3] = {                                              \
        {expand_##kind##_ff, expand_##kind##_fb, expand_##kind##_fi},                              \
        {expand_##kind##_bf, expand_##kind##_bb, expand_##kind##_bi}};

ALL_LOOPS(any, )
#if defined(__x86_64__)
ALL_LOOPS(avx2, __attribute__((target("avx2,fma"))))
ALL_LOOPS(avx512, __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma"))))
#define TAKE(loops, xt, wt)                                                                        \
    __builtin_cpu_init();                                                                          \
    if (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&                \
        __builtin_cpu_supports("avx512dq"))                                                        \
        return avx512_##loops[xt][wt];                                                             \
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))                           \
        return avx2_##loops[xt][wt];                                                               \
    return any_##loops[xt][wt];
#else
#define TAKE(loops, xt, wt) return any_##loops[xt][wt];
#endif

static shrinker *shrinker_of(int64_t xt, int64_t wt) { TAKE(shrinkers, xt, wt) }
static expander *expander_of(int64_t xt, int64_t wt) { TAKE(expanders, xt, wt) }

/* Rank rows that act on a token, run whenever the list is full. */
typedef struct {
    const char *a[BLOCK], *b[BLOCK];
    float gain[BLOCK];
    int64_t n;
} rank_rows;

static void run(rank_rows *list, const char *x, char *y, const bank *w, shrinker *shrink_rows,
                expander *expand_rows) {
    float h[BLOCK];
    shrink_rows(x, list->a, list->n, w->in, h);
    for (int64_t j = 0; j < list->n; j++) h[j] *= list->gain[j];
    expand_rows(y, list->b, list->n, w->out, h);
    list->n = 0;
}

static float gain_of(const bank *w, int64_t slot, int64_t r) {
    float gain = w->a_scale ? w->a_scale[slot * w->rank + r] : 1;
    return w->b_scale ? gain * w->b_scale[slot * w->rank + r] : gain;
}

/* slots (B, K), or NULL: row b has bank row b; weights (B, K) or, per_token, (B, T, K), or NULL. */
void adb_lora(const tokens *p, const bank *w, const int64_t *slots, const float *weights,
              int64_t deltas, int64_t per_token) {
    shrinker *shrink_rows = shrinker_of(p->dtype, w->dtype);
    expander *expand_rows = expander_of(p->dtype, w->dtype);
    const int64_t xs = size_of(p->dtype), ws = size_of(w->dtype);
    for (int64_t row = 0; row < p->rows; row++)
        for (int64_t t = 0; t < p->tokens; t++) {
            const char *x = p->x + xs * (row * p->x_row + t * p->x_token);
            char *y = p->y + xs * (row * p->y_row + t * p->y_token);
            rank_rows list;
            list.n = 0;
            for (int64_t k = 0; k < deltas; k++) {
                int64_t slot = slots ? slots[row * deltas + k] : row;
                if (slot < 0) continue;
                float weight = p->scale;
                if (weights) weight *= weights[(per_token ? row * p->tokens + t : row) * deltas + k];
                int64_t rank = w->ranks && w->ranks[slot] < w->rank ? w->ranks[slot] : w->rank;
                for (int64_t r = 0; r < rank; r++) {
                    list.a[list.n] = w->a + ws * (slot * w->a_slot + r * w->a_row);
                    list.b[list.n] = w->b + ws * (slot * w->b_slot + r * w->b_row);
                    list.gain[list.n] = weight * gain_of(w, slot, r);
                    if (++list.n == BLOCK) run(&list, x, y, w, shrink_rows, expand_rows);
                }
            }
            if (list.n) run(&list, x, y, w, shrink_rows, expand_rows);
        }
}

/* Logits of one token from h (K*R,), the products of x with the rows of A. */
static void judge(const gate *g, int64_t row, const char *x, const bank *w, const float *h,
                  shrinker *look, float *logits) {
    const int64_t rank = w->rank / g->deltas, size = size_of(g->vectors_dtype);
    for (int64_t k = 0; k < g->deltas; k++) {
        const int64_t at = row * g->deltas + k;
        if (g->vectors && (!g->learned || g->learned[at])) {
            const char *vector = g->vectors + size * at * w->in;
            look(x, &vector, 1, w->in, logits + k);
            continue;
        }
        float along = 0;
        for (int64_t r = 0; r < rank; r++) along += h[k * rank + r] * g->cores[at * rank + r];
        logits[k] = fabsf(along) + (g->offset ? g->offset[at] : 0);
    }
}

/* Weights of one token: softmax of the top_k largest live logits over temperature. */
static void choose(const float *logits, const uint8_t *live, int64_t deltas, int64_t top_k,
                   float temperature, float *weights) {
    float largest = 0, total = 0;
    for (int64_t k = 0; k < deltas; k++) weights[k] = -1; /* not taken */
    for (int64_t taken = 0; taken < top_k; taken++) {
        int64_t best = -1;
        for (int64_t k = 0; k < deltas; k++)
            if (live[k] && weights[k] < 0 && (best < 0 || logits[k] > logits[best])) best = k;
        if (best < 0) break;
        if (!taken) largest = logits[best];
        weights[best] = expf((logits[best] - largest) / temperature);
        total += weights[best];
    }
    for (int64_t k = 0; k < deltas; k++) weights[k] = weights[k] < 0 ? 0 : weights[k] / total;
}

/* The bank is aligned: row b has bank row b, of K deltas; h is scratch for its K*R products. */
void adb_gated(const tokens *p, const bank *w, const gate *g, float *h) {
    shrinker *shrink_rows = shrinker_of(p->dtype, w->dtype);
    shrinker *look = shrinker_of(p->dtype, g->vectors_dtype);
    expander *expand_rows = expander_of(p->dtype, w->dtype);
    const int64_t xs = size_of(p->dtype), ws = size_of(w->dtype), rank = w->rank / g->deltas;
    for (int64_t row = 0; row < p->rows; row++)
        for (int64_t t = 0; t < p->tokens; t++) {
            const char *x = p->x + xs * (row * p->x_row + t * p->x_token);
            char *y = p->y + xs * (row * p->y_row + t * p->y_token);
            const char *a = w->a + ws * row * w->a_slot, *b = w->b + ws * row * w->b_slot;
            const uint8_t *live = g->live + row * g->deltas;
            float *logits = g->logits + (row * p->tokens + t) * g->deltas;
            float *weights = g->weights + (row * p->tokens + t) * g->deltas;
            const char *rows[BLOCK];
            for (int64_t c = 0; c < w->rank;) {
                int64_t n = 0, first = c;
                for (; n < BLOCK && c < w->rank; n++, c++) rows[n] = a + ws * c * w->a_row;
                shrink_rows(x, rows, n, w->in, h + first);
            }
            judge(g, row, x, w, h, look, logits);
            if (g->fixed[row])
                for (int64_t k = 0; k < g->deltas; k++) weights[k] = live[k];
            else
                choose(logits, live, g->deltas, g->top_k[row], g->temperature[row], weights);
            float gain[BLOCK];
            int64_t n = 0;
            for (int64_t c = 0; c < w->rank; c++) { /* deltas without weight are not read */
                if (weights[c / rank] == 0) continue;
                gain[n] = h[c] * weights[c / rank] * p->scale;
                rows[n] = b + ws * c * w->b_row;
                if (++n == BLOCK) expand_rows(y, rows, n, w->out, gain), n = 0;
            }
            if (n) expand_rows(y, rows, n, w->out, gain);
        }
}
