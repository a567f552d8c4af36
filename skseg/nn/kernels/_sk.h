/* The kernels for one instruction set: V lanes, up to TILE pixels at a time.
 *
 * B, H, W, C: batch, height, width, channels; maps are [B, H, W, C]; C is a multiple of V. M: branches.
 *
 * Convolutions have G channels a group, kernels of 3x3, stride 1 and padding equal to their dilation, 1 to 4. A tap's
 * input channel j of a group goes to all its output channels, which are lanes of a vector. With G < V a vector holds
 * several groups, so each input pixel is spread: G vectors, the j-th with the j-th channel of each lane's group. With
 * more, a single channel is broadcast. A block is the channels a task takes: V with G < V, else one group.
 *
 * A packed weight is [C / V][3 rows][G][3 columns][V]: for each output channel, the last index and the first, the
 * weight of the j-th input channel of its group. */

typedef float FN(vec) __attribute__((vector_size(4 * V), aligned(4)));
typedef int FN(ints) __attribute__((vector_size(4 * V)));
#define vec FN(vec)
#define load(p) (*(const vec *)(p))
#define store(p, v) (*(vec *)(p) = (v))
#define add_to(p, v) store(p, load(p) + (v))
#define broadcast(s) ((s) - (vec){0})
#define only_if(condition, v) ((vec)((FN(ints))(v) & (condition)))
#define relu_of(v) only_if(~((v) <= (vec){0}), v) /* keeps NaN */
#define INLINE TARGET static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 24")
#define KEEP(v) __asm__("" : "+v"(v)) /* in a register: GCC would load it again for every use */
#define COLS (TILE + 2 * MAX_DILATION) /* of a gathered row */

/* A band of rows of a block of one image, and the ring of gathered rows that convolutions read. */
struct FN(band) {
    const float *image; /* its first pixel's first channel */
    int H, W, stride;   /* of the image; stride: floats a pixel */
    int G, D;           /* D: the largest dilation */
    int y0, rows;
    float *ring; /* [2 D + STEP][spread ? G x COLS x V : COLS x G] */
};

/* Copies columns x0 - D to x0 + tile + D of row y0 + r to the ring; zeros outside the image. `spread` is G or 0. */
INLINE void FN(gather)(const struct FN(band) *band, int r, int x0, const int spread, const int tile) {
    const int y = band->y0 + r, x = x0 - band->D, cols = tile + 2 * band->D, G = spread ? spread : band->G;
    const int planes = spread ? G : 1, unit = spread ? V : G;
    float *row = band->ring + (size_t)((r + band->D) % (2 * band->D + (spread ? 1 : STEP))) * COLS * planes * unit;
    const int inside = y >= 0 && y < band->H;
    int left = !inside ? cols : x < 0 ? -x : 0;
    left = left < cols ? left : cols;
    int right = band->W - x < cols ? band->W - x : cols;
    right = right > left ? right : left;
    for (int j = 0; j < planes; j++) {
        memset(row + (size_t)j * COLS * unit, 0, (size_t)left * unit * sizeof(float));
        memset(row + ((size_t)j * COLS + right) * unit, 0, (size_t)(cols - right) * unit * sizeof(float));
    }
    FN(ints) lane[V];
    UNROLL for (int j = 0; j < spread; j++) for (int l = 0; l < V; l++) lane[j][l] = l / G * G + j;
    const float *pixel = band->image + ((ptrdiff_t)y * band->W + x + left) * band->stride;
    for (int q = left; q < right; q++, pixel += band->stride)
        if (spread) {
            const vec v = load(pixel);
            __builtin_prefetch(pixel + (size_t)band->W * band->stride); /* the next row, too far apart for the CPU */
            UNROLL for (int j = 0; j < spread; j++) store(row + (j * COLS + q) * V, __builtin_shuffle(v, lane[j]));
        } else
            for (int j = 0; j < G; j += V) store(row + q * G + j, load(pixel + j));
}

/* The gathered row that is `offset` rows from row r, from `shift` columns left of the strip on. */
INLINE const float *FN(row_of)(const struct FN(band) *band, int r, int offset, int shift, const int spread) {
    const size_t unit = spread ? V : band->G, planes = spread ? spread : 1;
    return band->ring + ((size_t)((r + offset + band->D) % (2 * band->D + (spread ? 1 : STEP))) * COLS * planes + (band->D - shift)) * unit;
}

/* Channel j of the p-th pixel of a gathered row, for every lane. */
#define input_of(row, p, j) (spread ? load((row) + ((j) * COLS + (p)) * V) : broadcast((row)[(p) * G + (j)]))

/* Sums in registers for each output: two where there are registers, added in the end, so that additions wait less. */
#define SUMS(tile, nv) (TILE / ((tile) * (nv)))

/* Adds one row of taps: each input is loaded once for the three output pixels that it touches. */
INLINE void FN(taps)(const float *row, const float *w, int G, const int spread, const int d, const int tile, const int nv,
                     vec *acc) {
    for (int j0 = 0; j0 < (spread ? spread : G); j0 += SUMS(tile, nv))
        UNROLL for (int h = 0; h < SUMS(tile, nv); h++, w += 3 * V) {
            vec tap[3][2];
            for (int k = 0; k < 3; k++)
                for (int v = 0; v < nv; v++) tap[k][v] = load(w + (size_t)v * 9 * G * V + k * V);
            UNROLL for (int p = 0; p < tile + 2 * d; p++) {
                vec in = input_of(row, p, j0 + h);
                KEEP(in);
                for (int v = 0; v < nv; v++)
                    UNROLL for (int k = 0; k < 3; k++)
                        if (p >= k * d && p < tile + k * d)
                            acc[(h * nv + v) * tile + p - k * d] += tap[k][v] * in;
            }
        }
}

/* Stores n pixels of `tile`, and adds their sums and those of their squares to sums[0] and sums[stride]. */
INLINE void FN(finish)(const vec *acc, float *out, int stride, const int n, const int tile, const int nv, int relu,
                       int accumulate, float *sums, int sums_stride) {
    for (int v = 0; v < nv; v++) {
        vec sum[4] = {{0}}, square[4] = {{0}}; /* four, so that additions do not wait for each other */
        UNROLL for (int i = 0; i < tile; i++) {
            if (i >= n) break;
            float *to = out + (size_t)i * stride + v * V;
            vec a = acc[v * tile + i];
            if (SUMS(tile, nv) == 2) a += acc[(nv + v) * tile + i];
            if (accumulate) a += load(to);
            if (relu) a = relu_of(a);
            store(to, a);
            sum[i % 4] += a;
            square[i % 4] += a * a;
        }
        if (!sums) continue;
        add_to(sums + v * V, (sum[0] + sum[1]) + (sum[2] + sum[3]));
        add_to(sums + v * V + sums_stride, (square[0] + square[1]) + (square[2] + square[3]));
    }
}

/* What a convolution writes, for each branch: pointers to the block's first channel. */
struct FN(outputs) {
    int M;
    const int *dilation;
    const float *weight[MAX_BRANCHES], *bias[MAX_BRANCHES]; /* bias: NULL without */
    float *y[MAX_BRANCHES], *sums[MAX_BRANCHES];            /* y: at the band's first pixel; sums: NULL without */
    int stride, sums_stride, relu, accumulate;
};

/* One row of one branch: nv vectors of channels, from channel c of the block on. */
INLINE void FN(conv_row)(const struct FN(band) *band, const struct FN(outputs) *to, int m, int c, int r, int x0,
                         const int spread, const int tile, const int nv) {
    const int d = to->dilation[m], G = band->G, n = band->W - x0;
    const float *w = to->weight[m] + (size_t)c * 9 * G;
    vec acc[16];
    for (int v = 0; v < nv; v++) {
        const vec start = to->bias[m] ? load(to->bias[m] + c + v * V) : (vec){0};
        UNROLL for (int i = 0; i < tile; i++) acc[v * tile + i] = start;
    }
    UNROLL for (int i = tile * nv; i < TILE; i++) acc[i] = (vec){0};
    for (int ky = 0; ky < 3; ky++, w += 3 * G * V) {
        const float *row = FN(row_of)(band, r, (ky - 1) * d, d, spread);
        switch (d) {
        case 1: FN(taps)(row, w, G, spread, 1, tile, nv, acc); break;
        case 2: FN(taps)(row, w, G, spread, 2, tile, nv, acc); break;
        case 3: FN(taps)(row, w, G, spread, 3, tile, nv, acc); break;
        default: FN(taps)(row, w, G, spread, 4, tile, nv, acc);
        }
    }
    float *out = to->y[m] + ((size_t)r * band->W + x0) * to->stride + c, *sums = to->sums[m] ? to->sums[m] + c : NULL;
    if (n >= tile) /* without a test at every pixel */
        FN(finish)(acc, out, to->stride, tile, tile, nv, to->relu, to->accumulate, sums, to->sums_stride);
    else
        FN(finish)(acc, out, to->stride, n, tile, nv, to->relu, to->accumulate, sums, to->sums_stride);
}

INLINE void FN(conv_strip)(const struct FN(band) *band, const struct FN(outputs) *to, int x0, const int spread,
                           const int tile, const int nv) {
    const int block = spread ? V : band->G;
    for (int r = -band->D; r < band->D; r++) FN(gather)(band, r, x0, spread, tile);
    const int step = spread ? 1 : STEP;
    for (int r0 = 0; r0 < band->rows; r0 += step) {
        const int r1 = r0 + step < band->rows ? r0 + step : band->rows;
        for (int r = r0; r < r1; r++) FN(gather)(band, r + band->D, x0, spread, tile);
        for (int m = 0; m < to->M; m++)
            for (int c = 0; c < block; c += nv * V)
                for (int r = r0; r < r1; r++) FN(conv_row)(band, to, m, c, r, x0, spread, tile, nv);
    }
}

/* Calls strip(..., x0, spread, tile, nv) along a band with the last three known to the compiler. */
#define FOR_STRIPS(strip, band, ...)                                                                                   \
    for (int x0 = 0; x0 < (band)->W;) {                                                                                \
        const int G = (band)->G, tile = TILE == 16 && (band)->W - x0 > 8 && (G < 8 || (G >= V && G % 32)) ? 16 : 8;              \
        if (G == 4 && tile == TILE) strip(band, __VA_ARGS__, x0, 4, TILE, 1);                                          \
        else if (G == 4) strip(band, __VA_ARGS__, x0, 4, 8, 1);                                                        \
        else if (G < V && tile == TILE) strip(band, __VA_ARGS__, x0, 8, TILE, 1);                                      \
        else if (G < V) strip(band, __VA_ARGS__, x0, 8, 8, 1);                                                         \
        else if (TILE == 16 && G % 32 == 0) strip(band, __VA_ARGS__, x0, 0, 8, 2);                                     \
        else if (tile == TILE) strip(band, __VA_ARGS__, x0, 0, TILE, 1);                                               \
        else strip(band, __VA_ARGS__, x0, 0, 8, 1);                                                                    \
        x0 += tile;                                                                                                    \
    }

TARGET static void FN(conv_band)(const struct FN(band) *band, const struct FN(outputs) *to) {
    FOR_STRIPS(FN(conv_strip), band, to)
}

INLINE float *FN(new_floats)(size_t count) {
    return aligned_alloc(64, count * sizeof(float) / 64 * 64 + 64);
}

INLINE float *FN(new_ring)(int G, int D) {
    return FN(new_floats)((size_t)(2 * D + STEP) * COLS * G * (G < V ? V : 1));
}

INLINE int FN(largest)(int M, const int *dilation) {
    int D = 1;
    for (int m = 0; m < M; m++) D = dilation[m] > D ? dilation[m] : D;
    return D;
}

/* Packs the weights of V channels from c on, or with `unpack` puts them back. With `transposed` it is the weight of the
 * convolution that is the input gradient: the taps turned round, outputs and inputs exchanged.
 * strides: of the weight's [C, G, 3, 3], in floats. */
INLINE void FN(pack)(float *weight, const int *strides, float *packed, int c, int G, int transposed, const int unpack) {
    int of[V]; /* where the weights of these channels begin */
    for (int l = 0; l < V; l++)
        of[l] = transposed ? (c + l) / G * G * strides[0] + (c + l) % G * strides[1] : (c + l) * strides[0];
    for (int ky = 0; ky < 3; ky++)
        for (int j = 0; j < G; j++)
            for (int kx = 0; kx < 3; kx++, packed += V) {
                float *from = weight + (transposed ? j * strides[0] + (2 - ky) * strides[2] + (2 - kx) * strides[3]
                                                   : j * strides[1] + ky * strides[2] + kx * strides[3]);
                for (int l = 0; l < V; l++)
                    if (unpack) from[of[l]] = packed[l];
                    else packed[l] = from[of[l]];
            }
}

TARGET void FN(sk_pack)(float *weight, const int *strides, float *packed, int C, int G, int threads) {
#pragma omp parallel for num_threads(threads)
    for (int c = 0; c < C; c += V) FN(pack)(weight, strides, packed + (size_t)c * 9 * G, c, G, 0, 0);
}

/* y[m] = conv(x, weight[m]) + bias[m], then ReLU if `relu`.
 *
 * sums: [B][bands][M][2][C], the sum and the sum of squares of what was stored, over each band of `band_rows` rows.
 * pooled: [B][C], the mean over the image of the sum over m. */
TARGET void FN(sk_conv)(const float *x, int M, const int *dilation, const float *const *weight, const float *const *bias,
                        float *const *y, float *sums, float *pooled, int B, int H, int W, int C, int G, int relu,
                        int band_rows, int threads) {
    const int bands = (H + band_rows - 1) / band_rows, block = G < V ? V : G, D = FN(largest)(M, dilation);
    const size_t image = (size_t)H * W * C;
#pragma omp parallel num_threads(threads)
    {
        float *ring = FN(new_ring)(G, D);
#pragma omp for collapse(2) /* static: the passes that follow find a thread's images in its cache */
        for (int b = 0; b < B; b++)
            for (int k = 0; k < bands; k++) {
                float *sum = sums + (size_t)(b * bands + k) * M * 2 * C;
                memset(sum, 0, (size_t)M * 2 * C * sizeof(float));
                for (int c = 0; c < C; c += block) {
                    const int y0 = k * band_rows, rows = H - y0 < band_rows ? H - y0 : band_rows;
                    const struct FN(band) band = {x + b * image + c, H, W, C, G, D, y0, rows, ring};
                    struct FN(outputs) to = {M, dilation, .stride = C, .sums_stride = C, .relu = relu};
                    for (int m = 0; m < M; m++) {
                        to.weight[m] = weight[m] + (size_t)c * 9 * G;
                        to.bias[m] = bias ? bias[m] + c : NULL;
                        to.y[m] = y[m] + b * image + (size_t)y0 * W * C + c;
                        to.sums[m] = sum + m * 2 * C + c;
                    }
                    FN(conv_band)(&band, &to);
                }
            }
#pragma omp for
        for (int b = 0; b < B; b++)
            for (int c = 0; c < C; c += V) {
                vec total = {0};
                for (int k = 0; k < bands * M; k++) total += load(sums + ((size_t)b * bands * M + k) * 2 * C + c);
                store(pooled + (size_t)b * C + c, total / ((float)H * W));
            }
        free(ring);
    }
}

/* What weight gradients read and write, for each branch. */
struct FN(gradients) {
    int M;
    const int *dilation;
    const float *dy[MAX_BRANCHES]; /* at the band's first pixel and the block's first channel */
    float *dweight[MAX_BRANCHES];  /* packed, the block's */
    int stride;
};

/* Adds one row's part of three columns of taps of JS input channels; grad holds nv x tile vectors. */
INLINE void FN(taps_gradient)(const float *row, float *dw, const vec *grad, int G, const int spread, const int d,
                              const int tile, const int nv) {
    const int js = nv == 1 && TILE == 16 ? 4 : 2; /* enough sums for additions not to wait, few enough for registers */
    for (int j0 = 0; j0 < (spread ? spread : G); j0 += js, dw += js * 3 * V) {
        vec acc[4][3][2];
        for (int j = 0; j < js; j++)
            for (int k = 0; k < 3; k++)
                for (int v = 0; v < nv; v++) acc[j][k][v] = load(dw + (size_t)v * 9 * G * V + (j * 3 + k) * V);
        UNROLL for (int p = 0; p < tile + 2 * d; p++)
            UNROLL for (int j = 0; j < js; j++) {
                vec in = input_of(row, p, j0 + j);
                KEEP(in);
                for (int v = 0; v < nv; v++)
                    UNROLL for (int k = 0; k < 3; k++)
                        if (p >= k * d && p < tile + k * d) acc[j][k][v] += grad[v * tile + p - k * d] * in;
            }
        for (int j = 0; j < js; j++)
            for (int k = 0; k < 3; k++)
                for (int v = 0; v < nv; v++) store(dw + (size_t)v * 9 * G * V + (j * 3 + k) * V, acc[j][k][v]);
    }
}

INLINE void FN(gradient_strip)(const struct FN(band) *band, const struct FN(gradients) *to, int x0, const int spread,
                               const int tile, const int nv) {
    const int block = spread ? V : band->G, n = band->W - x0, G = band->G;
    for (int r = -band->D; r < band->D; r++) FN(gather)(band, r, x0, spread, tile);
    for (int r = 0; r < band->rows; r++) {
        FN(gather)(band, r + band->D, x0, spread, tile);
        for (int m = 0; m < to->M; m++)
            for (int c = 0; c < block; c += nv * V) {
                const float *dy = to->dy[m] + ((size_t)r * band->W + x0) * to->stride + c;
                const int d = to->dilation[m];
                vec grad[16];
                for (int v = 0; v < nv; v++)
                    UNROLL for (int i = 0; i < tile; i++) grad[v * tile + i] =
                        i < n ? load(dy + (size_t)i * to->stride + v * V) : (vec){0};
                float *dw = to->dweight[m] + (size_t)c * 9 * G;
                for (int ky = 0; ky < 3; ky++, dw += 3 * G * V) {
                    const float *row = FN(row_of)(band, r, (ky - 1) * d, d, spread);
                    switch (d) {
                    case 1: FN(taps_gradient)(row, dw, grad, G, spread, 1, tile, nv); break;
                    case 2: FN(taps_gradient)(row, dw, grad, G, spread, 2, tile, nv); break;
                    case 3: FN(taps_gradient)(row, dw, grad, G, spread, 3, tile, nv); break;
                    default: FN(taps_gradient)(row, dw, grad, G, spread, 4, tile, nv);
                    }
                }
            }
    }
}

TARGET static void FN(gradient_band)(const struct FN(band) *band, const struct FN(gradients) *to) {
    FOR_STRIPS(FN(gradient_strip), band, to)
}

/* dy[m] = (p[b][m] * dout + q[b][m] where relu(y * scale[m] + shift[m]) passes, else 0) + r[m] * y + s[m],
 * of `pixels` pixels and `channels` channels, from those that y and dout point to; dy has `stride` floats a pixel. */
INLINE void FN(map_gradient)(const float *y, const float *scale, const float *shift, const float *dout, const float *p,
                             const float *q, const float *r, const float *s, float *dy, int pixels, int C, int channels,
                             int stride) {
    for (int c = 0; c < channels; c += V) {
        const vec by = load(scale + c), plus = load(shift + c), pc = load(p + c), qc = load(q + c), rc = load(r + c),
                  sc = load(s + c);
        for (int i = 0; i < pixels; i++) {
            const vec v = load(y + (size_t)i * C + c), g = load(dout + (size_t)i * C + c);
            const vec through = only_if(v * by + plus > (vec){0}, pc * g + qc);
            store(dy + (size_t)i * stride + c, through + rc * v + sc);
        }
    }
}

/* The same for whole maps: dy[m] is [B, H, W, C]; p, q: [B][M][C]; scale, shift, r, s: [M][C]. */
TARGET void FN(sk_grad_maps)(int M, const float *const *y, const float *scale, const float *shift, const float *dout,
                             const float *p, const float *q, const float *r, const float *s, float *const *dy, int B,
                             int pixels, int C, int threads) {
#pragma omp parallel for collapse(2) num_threads(threads)
    for (int b = 0; b < B; b++)
        for (int c = 0; c < C; c += V)
            for (int m = 0; m < M; m++) {
                const size_t at = (size_t)b * pixels * C + c, own = ((size_t)b * M + m) * C + c, k = (size_t)m * C + c;
                FN(map_gradient)(y[m] + at, scale + k, shift + k, dout + at, p + own, q + own, r + k, s + k, dy[m] + at,
                                 pixels, C, V, C);
            }
}

/* From the gradient of the output to those of the input and of the convolutions' weights.
 *
 * A task takes a block of channels, makes the gradients of its maps as sk_grad_maps does, a band of rows at a time that
 * stays in the cache, and convolves them at once. weight[m]: [C, G, 3, 3] of the given strides; dx: [B, H, W, C] or NULL;
 * dweight[m]: [splits] like the weight, or NULL; the images are dealt out over the splits. */
TARGET void FN(sk_backward)(const float *x, int M, const int *dilation, float *const *weight, const int *strides,
                            const float *const *y, const float *scale, const float *shift, const float *dout,
                            const float *p, const float *q, const float *r, const float *s, float *dx,
                            float *const *dweight, int B, int H, int W, int C, int G, int splits, int band_rows,
                            int threads) {
    const int block = G < V ? V : G, D = FN(largest)(M, dilation);
    const size_t image = (size_t)H * W * C, room = (size_t)(band_rows + 2 * D) * W * block, taps = (size_t)block * 9 * G;
#pragma omp parallel num_threads(threads)
    {
        float *ring = FN(new_ring)(G, D), *dy = FN(new_floats)(M * room);
        float *transposed = FN(new_floats)(2 * M * taps), *dw = transposed + M * taps; /* packed */
#pragma omp for collapse(2) schedule(dynamic)
        for (int split = 0; split < splits; split++)
            for (int c = 0; c < C; c += block) {
                for (int m = 0; dx && m < M; m++)
                    for (int k = 0; k < block; k += V)
                        FN(pack)(weight[m], strides + 4 * m, transposed + m * taps + k * 9 * G, c + k, G, 1, 0);
                memset(dw, 0, M * taps * sizeof(float));
                for (int b = split; b < B; b += splits)
                    for (int y0 = 0; y0 < H; y0 += band_rows) {
                        const int rows = H - y0 < band_rows ? H - y0 : band_rows, top = y0 < D ? y0 : D;
                        const int bottom = H - y0 - rows < D ? H - y0 - rows : D, all = top + rows + bottom;
                        const size_t first = b * image + (size_t)(y0 - top) * W * C + c;
                        for (int m = 0; m < M; m++) {
                            const size_t own = ((size_t)b * M + m) * C + c, k = (size_t)m * C + c;
                            FN(map_gradient)(y[m] + first, scale + k, shift + k, dout + first, p + own, q + own, r + k,
                                             s + k, dy + m * room, all * W, C, block, block);
                        }
                        for (int m = 0; dx && m < M; m++) {
                            const struct FN(band) band = {dy + m * room, all, W, block, G, dilation[m], top, rows, ring};
                            struct FN(outputs) to = {1, dilation + m, .stride = C, .accumulate = m > 0};
                            to.weight[0] = transposed + m * taps;
                            to.y[0] = dx + b * image + (size_t)y0 * W * C + c;
                            FN(conv_band)(&band, &to);
                        }
                        if (!dweight) continue;
                        const struct FN(band) band = {x + b * image + c, H, W, C, G, D, y0, rows, ring};
                        struct FN(gradients) to = {M, dilation, .stride = block};
                        for (int m = 0; m < M; m++) {
                            to.dy[m] = dy + m * room + (size_t)top * W * block;
                            to.dweight[m] = dw + m * taps;
                        }
                        FN(gradient_band)(&band, &to);
                    }
                for (int m = 0; dweight && m < M; m++)
                    for (int k = 0; k < block; k += V)
                        FN(pack)(dweight[m] + (size_t)split * C * 9 * G, strides + 4 * m, dw + m * taps + k * 9 * G, c + k,
                                 G, 0, 1);
            }
        free(ring);
        free(dy);
        free(transposed);
    }
}

/* Sums over the pixels of a band, kept in registers: of y and of its square, of `n` vectors of channels. */
INLINE void FN(sums_of)(const float *y, float *sums, int pixels, int C, const int n) {
    vec sum[4] = {{0}}, square[4] = {{0}};
    for (int i = 0; i < pixels; i++)
        UNROLL for (int k = 0; k < n; k++) {
            const vec v = load(y + (size_t)i * C + k * V);
            sum[k] += v;
            square[k] += v * v;
        }
    for (int k = 0; k < n; k++) store(sums + k * V, sum[k]), store(sums + C + k * V, square[k]);
}

/* Calls f with four vectors of channels at a time, and the rest one by one. */
#define FOR_CHANNELS(f, ...)                                                                                           \
    int c = 0;                                                                                                         \
    for (; c + 4 * V <= C; c += 4 * V) f(__VA_ARGS__, 4);                                                              \
    for (; c < C; c += V) f(__VA_ARGS__, 1);

/* Pixels of an image that the k-th of `bands` bands begins with. */
#define FIRST(k) ((int)((long)pixels * (k) / bands))

/* sums: [B][bands][M][2][C] over a band of pixels: of y and of its square. */
TARGET void FN(sk_sums)(int M, const float *const *y, float *sums, int B, int pixels, int C, int bands, int threads) {
#pragma omp parallel for collapse(2) num_threads(threads)
    for (int b = 0; b < B; b++)
        for (int k = 0; k < bands; k++)
            for (int m = 0; m < M; m++) {
                const float *from = y[m] + ((size_t)b * pixels + FIRST(k)) * C;
                float *s = sums + (((size_t)b * bands + k) * M + m) * 2 * C;
                FOR_CHANNELS(FN(sums_of), from + c, s + c, FIRST(k + 1) - FIRST(k), C)
            }
}

/* out = sum over m of attention[b][m] * u[m], where u = relu(y * scale[m] + shift[m]), or y itself without scale.
 * attention: [B][M][C]. */
TARGET void FN(sk_select)(int M, const float *const *y, const float *scale, const float *shift, const float *attention,
                          float *out, int B, int pixels, int C, int threads) {
#pragma omp parallel for collapse(2) num_threads(threads)
    for (int b = 0; b < B; b++)
        for (int p = 0; p < pixels; p++) {
            const size_t at = ((size_t)b * pixels + p) * C;
            for (int c = 0; c < C; c += V) {
                vec v = {0};
                for (int m = 0; m < M; m++) {
                    vec u = load(y[m] + at + c);
                    if (scale) u = relu_of(u * load(scale + m * C + c) + load(shift + m * C + c));
                    v += u * load(attention + ((size_t)b * M + m) * C + c);
                }
                store(out + at + c, v);
            }
        }
}

INLINE void FN(pool_of)(const float *y, const float *scale, const float *shift, float *sum, int pixels, int C,
                        const int n) {
    vec total[4], by[4], plus[4];
    for (int k = 0; k < n; k++) total[k] = load(sum + k * V), by[k] = load(scale + k * V), plus[k] = load(shift + k * V);
    for (int i = 0; i < pixels; i++)
        UNROLL for (int k = 0; k < n; k++) total[k] += relu_of(load(y + (size_t)i * C + k * V) * by[k] + plus[k]);
    for (int k = 0; k < n; k++) store(sum + k * V, total[k]);
}

/* pooled: [B][C], the mean over the image of the sum over m of relu(y * scale[m] + shift[m]). sums: [B][bands][C]. */
TARGET void FN(sk_pool)(int M, const float *const *y, const float *scale, const float *shift, float *sums,
                        float *pooled, int B, int pixels, int C, int bands, int threads) {
#pragma omp parallel num_threads(threads)
    {
#pragma omp for collapse(2)
        for (int b = 0; b < B; b++)
            for (int k = 0; k < bands; k++) {
                float *sum = sums + ((size_t)b * bands + k) * C;
                memset(sum, 0, C * sizeof(float));
                for (int m = 0; m < M; m++) {
                    const float *from = y[m] + ((size_t)b * pixels + FIRST(k)) * C;
                    FOR_CHANNELS(FN(pool_of), from + c, scale + m * C + c, shift + m * C + c, sum + c,
                                 FIRST(k + 1) - FIRST(k), C)
                }
            }
#pragma omp for
        for (int b = 0; b < B; b++)
            for (int c = 0; c < C; c += V) {
                vec total = {0};
                for (int k = 0; k < bands; k++) total += load(sums + ((size_t)b * bands + k) * C + c);
                store(pooled + (size_t)b * C + c, total / (float)pixels);
            }
    }
}

/* Where the ReLU passes: sums of dout, of 1, of dout * y, of y; each C floats apart. */
INLINE void FN(gradient_sums_of)(const float *y, const float *dout, const float *scale, const float *shift, float *sums,
                                 int pixels, int C, const int n) {
    vec sum[4][4] = {{{0}}}, by[4], plus[4];
    for (int k = 0; k < n; k++) by[k] = load(scale + k * V), plus[k] = load(shift + k * V);
    for (int i = 0; i < pixels; i++)
        UNROLL for (int k = 0; k < n; k++) {
            const vec v = load(y + (size_t)i * C + k * V), g = load(dout + (size_t)i * C + k * V);
            const FN(ints) passes = v * by[k] + plus[k] > (vec){0};
            sum[k][0] += only_if(passes, g);
            sum[k][1] += only_if(passes, broadcast(1.0f));
            sum[k][2] += only_if(passes, g * v);
            sum[k][3] += only_if(passes, v);
        }
    for (int k = 0; k < n; k++)
        for (int j = 0; j < 4; j++) store(sums + (size_t)j * C + k * V, sum[k][j]);
}

/* parts: [B][bands][M][4][C], the sums above over each band of pixels; sums: [B][M][4][C], over all;
 * dattention: [B][M][C]. */
TARGET void FN(sk_grad_sums)(int M, const float *const *y, const float *scale, const float *shift, const float *dout,
                             float *parts, float *sums, float *dattention, int B, int pixels, int C, int bands,
                             int threads) {
    const size_t size = (size_t)M * 4 * C;
#pragma omp parallel num_threads(threads)
    {
#pragma omp for collapse(2)
        for (int b = 0; b < B; b++)
            for (int k = 0; k < bands; k++)
                for (int m = 0; m < M; m++) {
                    const size_t at = ((size_t)b * pixels + FIRST(k)) * C;
                    float *part = parts + ((size_t)b * bands + k) * size + m * 4 * C;
                    FOR_CHANNELS(FN(gradient_sums_of), y[m] + at + c, dout + at + c, scale + m * C + c,
                                 shift + m * C + c, part + c, FIRST(k + 1) - FIRST(k), C)
                }
#pragma omp for collapse(2)
        for (int b = 0; b < B; b++)
            for (int m = 0; m < M; m++)
                for (int c = 0; c < C; c += V) {
                    float *sum = sums + b * size + m * 4 * C + c;
                    for (int j = 0; j < 4; j++) {
                        vec total = {0};
                        for (int k = 0; k < bands; k++)
                            total += load(parts + ((size_t)b * bands + k) * size + (m * 4 + j) * C + c);
                        store(sum + j * C, total);
                    }
                    store(dattention + ((size_t)b * M + m) * C + c,
                          load(scale + m * C + c) * load(sum + 2 * C) + load(shift + m * C + c) * load(sum));
                }
    }
}

/* From the sums of `parts` parts, [parts][M][2][C], over `count` pixels, to the norms of the branches. The statistics are
 * those of the batch; or running[2 m] and running[2 m + 1], mean and variance, where `by_batch` is 0. These follow the
 * batch's by `momentum`, if that is not negative.
 * means, rstds, scales, shifts: [M][C], where the norm is y * scale + shift. */
TARGET void FN(sk_statistics)(int M, const float *sums, const float *const *weight, const float *const *bias,
                              const float *eps, const int *by_batch, const float *momentum, float *const *running,
                              float *means, float *rstds, float *scales, float *shifts, int parts, int count, int C,
                              int threads) {
    (void)threads; /* too little to share */
    for (int m = 0; m < M; m++)
        for (int c = 0; c < C; c += V) {
            double sum[V] = {0}, square[V] = {0}; /* in double, because the variance is a difference */
            for (int k = 0; k < parts; k++) {
                const float *from = sums + ((size_t)k * M + m) * 2 * C + c;
                for (int l = 0; l < V; l++) sum[l] += from[l];
                for (int l = 0; l < V; l++) square[l] += from[C + l];
            }
            vec mean, var, unbiased, rstd;
            for (int l = 0; l < V; l++) {
                const double average = sum[l] / count, spread = square[l] / count - average * average;
                mean[l] = (float)average;
                var[l] = spread > 0 ? (float)spread : 0;
            }
            unbiased = var * ((float)count / (float)(count > 1 ? count - 1 : 1));
            if (!by_batch[m]) {
                mean = load(running[2 * m] + c);
                var = load(running[2 * m + 1] + c);
            } else if (momentum[m] >= 0) {
                add_to(running[2 * m] + c, momentum[m] * (mean - load(running[2 * m] + c)));
                add_to(running[2 * m + 1] + c, momentum[m] * (unbiased - load(running[2 * m + 1] + c)));
            }
            for (int l = 0; l < V; l++) rstd[l] = 1 / sqrtf(var[l] + eps[m]);
            const vec scale = load(weight[m] + c) * rstd;
            const size_t at = (size_t)m * C + c;
            store(means + at, mean);
            store(rstds + at, rstd);
            store(scales + at, scale);
            store(shifts + at, load(bias[m] + c) - mean * scale);
        }
}

/* From the sums of sk_grad_sums and the gradients of the pooled features to those of the norms' weights and biases, and
 * to what sk_grad_maps takes. A branch gets attention * dout + dpooled / pixels after its ReLU; through the norm its map
 * gets p * dout + q where the ReLU passes, and r * y + s everywhere if the statistics are the batch's.
 * attention, p, q: [B][M][C]; dpooled: [B][C]; by_batch: [M]; the rest: [M][C]. */
TARGET void FN(sk_norm_gradients)(int M, const float *sums, const float *attention, const float *dpooled,
                                  const float *means, const float *rstds, const float *scales, const int *by_batch,
                                  float *p, float *q, float *r, float *s, float *dweight, float *dbias, int B,
                                  int pixels, int C, int threads) {
    (void)threads; /* too little to share */
    const float share = 1 / (float)pixels;
    for (int m = 0; m < M; m++)
        for (int c = 0; c < C; c += V) {
            const size_t at = (size_t)m * C + c;
            const vec mean = load(means + at), rstd = load(rstds + at), scale = load(scales + at);
            vec total = {0}, total_y = {0}; /* of the gradients after the norm, and of those times y */
            for (int b = 0; b < B; b++) {
                const size_t own = (size_t)b * M * C + at;
                const float *sum = sums + ((size_t)b * M + m) * 4 * C + c;
                const vec a = load(attention + own), part = load(dpooled + (size_t)b * C + c) * share;
                total += a * load(sum) + part * load(sum + C);
                total_y += a * load(sum + 2 * C) + part * load(sum + 3 * C);
                store(p + own, scale * a);
                store(q + own, scale * part);
            }
            const vec dw = (total_y - mean * total) * rstd, mine = scale * (by_batch[m] ? share / (float)B : 0);
            store(dbias + at, total);
            store(dweight + at, dw);
            store(r + at, -mine * rstd * dw);
            store(s + at, mine * (rstd * dw * mean - total));
        }
}

/* Where a map of any strides lies, [4]: batch, channel, row and column, in floats. */
struct FN(map) {
    const float *at;
    const int *strides;
    int H, W;
};

/* Copies row y of V channels of an image, or of the n that there are, to row[W][V]; zeros outside the image. */
INLINE void FN(copy_row)(const struct FN(map) *map, int b, int c, int n, int y, float *row) {
    const int *s = map->strides;
    const float *from = map->at + (ptrdiff_t)b * s[0] + (ptrdiff_t)c * s[1] + (ptrdiff_t)y * s[2];
    if (y < 0 || y >= map->H) memset(row, 0, (size_t)map->W * V * sizeof(float));
    else if (s[1] == 1 && n == V)
        for (int q = 0; q < map->W; q++) store(row + q * V, load(from + (ptrdiff_t)q * s[3]));
    else
        for (int l = 0; l < n; l++)
            for (int q = 0; q < map->W; q++) row[q * V + l] = from[(ptrdiff_t)l * s[1] + (ptrdiff_t)q * s[3]];
}

/* Adds to sums[K] the products of n pixels of g, an even number, with those of x that each tap of a row meets. */
INLINE void FN(correlate)(const float *g, const float *x, int n, int stride, int d, const int K, vec *sums) {
    vec acc[2][9] = {{{0}}}; /* two sums a tap, so that additions wait less */
    for (int q = 0; q < n; q += 2)
        UNROLL for (int h = 0; h < 2; h++) {
            const vec of_g = load(g + (q + h) * V);
            UNROLL for (int k = 0; k < K; k++) acc[h][k] += of_g * load(x + ((q + h) * stride + k * d) * V);
        }
    UNROLL for (int k = 0; k < K; k++) sums[k] += acc[0][k] + acc[1][k];
}

/* The gradient [C][K][K] of the weight of a depthwise convolution, K 3, 5, 7 or 9. Channels are lanes, and C any number.
 * Rows of x are gathered, with the zeros that pad them, in a ring of as many as the kernel reaches over. */
TARGET void FN(sk_depthwise_grad)(const float *x, const int *x_strides, const float *grad, const int *grad_strides,
                                  float *dw, int B, int C, int H, int W, int out_H, int out_W, int K, int stride,
                                  int dilation, int top, int left, int threads) {
    const struct FN(map) in = {x, x_strides, H, W}, out = {grad, grad_strides, out_H, out_W};
    const int reach = (K - 1) * dilation, n = out_W + out_W % 2, last = (n - 1) * stride + reach;
    const size_t cols = left + W > last ? left + W : last + 1;
#pragma omp parallel num_threads(threads)
    {
        float *ring = calloc(((reach + 1) * cols + n) * V, sizeof(float)), *g = ring + (reach + 1) * cols * V;
#pragma omp for
        for (int c = 0; c < C; c += V) {
            const int lanes = C - c < V ? C - c : V;
            vec sums[9 * 9] = {{0}};
            for (int b = 0; b < B; b++)
                for (int y = 0, next = 0; y < out_H; y++) {
                    const int first = y * stride;
                    for (next = next > first ? next : first; next <= first + reach; next++)
                        FN(copy_row)(&in, b, c, lanes, next - top, ring + (next % (reach + 1) * cols + left) * V);
                    FN(copy_row)(&out, b, c, lanes, y, g);
                    for (int k = 0; k < K; k++) {
                        const float *row = ring + (first + k * dilation) % (reach + 1) * cols * V;
                        switch (K) {
                        case 3: FN(correlate)(g, row, n, stride, dilation, 3, sums + k * K); break;
                        case 5: FN(correlate)(g, row, n, stride, dilation, 5, sums + k * K); break;
                        case 7: FN(correlate)(g, row, n, stride, dilation, 7, sums + k * K); break;
                        case 9: FN(correlate)(g, row, n, stride, dilation, 9, sums + k * K); break;
                        }
                    }
                }
            for (int k = 0; k < K * K; k++)
                for (int l = 0; l < lanes; l++) dw[(size_t)(c + l) * K * K + k] = sums[k][l];
        }
        free(ring);
    }
}

#undef vec
#undef load
#undef store
#undef add_to
#undef broadcast
#undef only_if
#undef relu_of
#undef input_of
#undef INLINE
#undef UNROLL
#undef KEEP
#undef COLS
#undef SUMS
#undef FOR_STRIPS
#undef FOR_CHANNELS
#undef FIRST
#undef ISA
#undef V
#undef TILE
#undef TARGET
