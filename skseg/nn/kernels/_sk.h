/* The kernels for one instruction set: vectors of V lanes, up to TILE pixels at a time. _sk.c includes this file
 * once for each set.
 *
 * Names used throughout:
 *   B, H, W, C    batch, height, width, channels. Maps are float32 [B, H, W, C]; C is a multiple of V unless a kernel
 *                 says otherwise. `pixels` is H * W.
 *   M             branches of the unit, at most MAX_BRANCHES. Arrays [M] of pointers hold one map or weight a branch.
 *   G             channels a group of the 3x3 convolutions: 4, 8, 16 or 32, as many in as out.
 *   D             the largest dilation of the branches, 1 to MAX_DILATION.
 *   y             a branch's map: the output of its convolution, before the norm.
 *   scale, shift  [M][C]: the norm of branch m is y * scale[m] + shift[m], followed by a ReLU.
 *   d*            the gradient of the loss with respect to *: dy, dout, dweight.
 *   threads       OpenMP threads to use; the caller passes torch's number.
 *
 * Every function sk_* returns 0, or NO_MEMORY if it could not allocate; its results are then undefined. Arguments are
 * not checked here: ops.py checks dtype, shape and layout.
 *
 * The convolutions (kernel 3x3, stride 1, padding equal to the dilation). A vector holds V output channels of one
 * pixel. Input channel j of a group contributes to all output channels of the group, so it is multiplied with a vector
 * of weights. With G >= V one input channel is broadcast to all lanes. With G < V a vector holds several groups, and
 * lane l needs the j-th channel of *its* group: the input is "spread", once, into G vectors a pixel.
 *
 * Blocking, from the outside in:
 *   band    rows of one image that a task takes, so that there are enough tasks for all threads.
 *   block   channels that depend on each other only: V channels with G < V, else one group. All branches of a block
 *           share the gathered input.
 *   strip   TILE or 8 columns of the band. A strip runs down the band; the input rows that its taps reach wait in a
 *           ring buffer of 2 D + STEP rows, which fits the first-level cache.
 *   row     the sums of TILE (or 2 x 8) output pixels stay in registers over all taps and input channels. Each input
 *           is loaded once for the three output pixels that a row of taps sends it to.
 *
 * A packed weight is [C / V][3 rows][G][3 columns][V]: the taps in the order in which a row reads them, V output
 * channels (first and last index) side by side. */

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

/* What a convolution reads: a band of rows of one block of one image, and the ring of gathered rows. */
struct FN(band) {
    const float *image; /* the block's first channel of the image's first pixel */
    int H, W, stride;   /* of the image; stride: floats from pixel to pixel */
    int G, D;
    int y0, rows;       /* the band's first row in the image, and its number of rows */
    float *ring;        /* [2 D + STEP][spread ? G x COLS x V : COLS x G]; row r is at index r modulo its length */
};

/* Copies columns x0 - D to x0 + tile + D of row y0 + r to the ring, with zeros outside the image: the padding.
 * `spread` is G where the input is spread over the lanes, else 0. */
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

/* The gathered row `offset` rows below row r, starting `shift` columns left of the strip. */
INLINE const float *FN(row_of)(const struct FN(band) *band, int r, int offset, int shift, const int spread) {
    const size_t unit = spread ? V : band->G, planes = spread ? spread : 1;
    const size_t index = (r + offset + band->D) % (2 * band->D + (spread ? 1 : STEP));
    return band->ring + (index * COLS * planes + (band->D - shift)) * unit;
}

/* Channel j of the p-th pixel of a gathered row, for every lane: spread before, or broadcast now. */
#define input_of(row, p, j) (spread ? load((row) + ((j) * COLS + (p)) * V) : broadcast((row)[(p) * G + (j)]))

/* Sums in registers for each output. Two where there are enough registers, added at the end: an addition then waits for
 * the one before the last, and the processor's pipeline stays full. */
#define SUMS(tile, nv) (TILE / ((tile) * (nv)))

/* Adds one row of taps (three columns, dilation d) to acc[SUMS][nv][tile], the sums of `tile` pixels of nv vectors of
 * channels. Each input is loaded once for the three output pixels that it contributes to. */
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

/* Stores the first n of `tile` pixels, after a ReLU if `relu`, added to what is there if `accumulate`. Adds their sum
 * to sums[0] and the sum of their squares to sums[sums_stride], unless sums is NULL. */
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

/* What a convolution reads and writes of each branch; pointers are to the block's first channel. */
struct FN(outputs) {
    int M;
    const int *dilation;
    const float *weight[MAX_BRANCHES], *bias[MAX_BRANCHES]; /* bias: NULL without */
    float *y[MAX_BRANCHES], *sums[MAX_BRANCHES];            /* y: at the band's first pixel; sums: NULL without */
    int stride, sums_stride, relu, accumulate;
};

/* Convolves one row of one branch: `tile` pixels from x0 on, nv vectors of channels from channel c of the block on. */
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

/* Convolves one strip of a band, all branches. Every row is gathered once; it leaves the ring when no tap reaches it. */
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

/* Calls strip(..., x0, spread, tile, nv) for each strip of a band. The last three are constants in each call, so the
 * compiler unrolls the loops over them and keeps the sums in registers. */
#define FOR_STRIPS(strip, band, ...)                                                                                   \
    for (int x0 = 0; x0 < (band)->W;) {                                                                                \
        const int G = (band)->G;                                                                                       \
        const int tile = TILE == 16 && (band)->W - x0 > 8 && (G < 8 || (G >= V && G % 32)) ? 16 : 8;                   \
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

/* Uninitialized memory for `count` floats, aligned to a cache line; NULL if there is none. */
INLINE float *FN(new_floats)(size_t count) {
    return aligned_alloc(64, count * sizeof(float) / 64 * 64 + 64);
}

INLINE float *FN(new_ring)(int G, int D) {
    return FN(new_floats)((size_t)(2 * D + STEP) * COLS * G * (G < V ? V : 1));
}

/* The largest dilation. */
INLINE int FN(largest)(int M, const int *dilation) {
    int D = 1;
    for (int m = 0; m < M; m++) D = dilation[m] > D ? dilation[m] : D;
    return D;
}

/* Packs the weights of V channels from c on; with `unpack` copies them back instead. With `transposed` packs the weight
 * of the convolution that computes the input's gradient: taps reversed, inputs and outputs exchanged.
 * strides: of the weight [C, G, 3, 3], in floats. */
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

/* packed = the packed weight, see the top of this file. Reads weight [C, G, 3, 3] of any strides (in floats). */
TARGET int FN(sk_pack)(float *weight, const int *strides, float *packed, int C, int G, int threads) {
#pragma omp parallel for num_threads(threads)
    for (int c = 0; c < C; c += V) FN(pack)(weight, strides, packed + (size_t)c * 9 * G, c, G, 0, 0);
    return 0;
}

/* y[m] = conv(x, weight[m]) + bias[m], then a ReLU if `relu`.
 *
 * Reads x [B, H, W, C], packed weights, and biases [C] (bias NULL: none). Writes y[m] [B, H, W, C], and on the way
 * sums: [B][bands][M][2][C], the sum and the sum of squares of what was stored, over each band of `band_rows` rows,
 *       from which sk_statistics computes the norms;
 * pooled: [B][C], the mean over the image of the sum over m: what Fuse pools where there are no norms. */
TARGET int FN(sk_conv)(const float *x, int M, const int *dilation, const float *const *weight, const float *const *bias,
                        float *const *y, float *sums, float *pooled, int B, int H, int W, int C, int G, int relu,
                        int band_rows, int threads) {
    const int bands = (H + band_rows - 1) / band_rows, block = G < V ? V : G, D = FN(largest)(M, dilation);
    const size_t image = (size_t)H * W * C;
    int failed = 0;
#pragma omp parallel num_threads(threads) reduction(| : failed)
    {
        float *ring = FN(new_ring)(G, D);
        failed |= !ring;
#pragma omp for collapse(2) /* static: the passes that follow find a thread's images in its cache */
        for (int b = 0; b < B; b++)
            for (int k = 0; k < bands; k++) {
                if (!ring) continue;
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
    return failed ? NO_MEMORY : 0;
}

/* What the weight gradients read and write of each branch. */
struct FN(gradients) {
    int M;
    const int *dilation;
    const float *dy[MAX_BRANCHES]; /* at the band's first pixel and the block's first channel */
    float *dweight[MAX_BRANCHES];  /* packed, the block's */
    int stride;
};

/* Adds what one row of pixels contributes to one row of taps of the weight's gradient, js input channels at a time. Here
 * the sums in registers are those of the taps, and `grad` holds the map's gradient of nv x tile vectors. */
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

/* The weight gradients of one strip of a band, all branches; gathers like conv_strip. */
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

/* The gradient of a branch's map y, from that of the unit's output, in the form that sk_norm_gradients leaves:
 *
 *     dy = all_scale * y + all_shift + (open_scale * dout + open_shift where the ReLU is open, else 0)
 *
 * The part in brackets comes through select and pooling, the rest from the norm's use of the batch's statistics (0 in
 * evaluation). Computes `pixels` pixels of `channels` channels from where y and dout point to; dy has `stride` floats
 * from pixel to pixel. */
INLINE void FN(map_gradient)(const float *y, const float *scale, const float *shift, const float *dout,
                             const float *open_scale, const float *open_shift, const float *all_scale,
                             const float *all_shift, float *dy, int pixels, int C, int channels, int stride) {
    for (int c = 0; c < channels; c += V) {
        const vec by = load(scale + c), plus = load(shift + c), open_by = load(open_scale + c),
                  open_plus = load(open_shift + c), all_by = load(all_scale + c), all_plus = load(all_shift + c);
        for (int i = 0; i < pixels; i++) {
            const vec v = load(y + (size_t)i * C + c), g = load(dout + (size_t)i * C + c);
            const vec through = only_if(v * by + plus > (vec){0}, open_by * g + open_plus);
            store(dy + (size_t)i * stride + c, through + all_by * v + all_plus);
        }
    }
}

/* The gradients of whole maps: writes dy[m] [B, H, W, C]. open_scale, open_shift: [B][M][C]; scale, shift, all_scale,
 * all_shift: [M][C]. For units whose convolutions are torch's. */
TARGET int FN(sk_grad_maps)(int M, const float *const *y, const float *scale, const float *shift, const float *dout,
                            const float *open_scale, const float *open_shift, const float *all_scale,
                            const float *all_shift, float *const *dy, int B, int pixels, int C, int threads) {
#pragma omp parallel for collapse(2) num_threads(threads)
    for (int b = 0; b < B; b++)
        for (int c = 0; c < C; c += V)
            for (int m = 0; m < M; m++) {
                const size_t at = (size_t)b * pixels * C + c, own = ((size_t)b * M + m) * C + c, k = (size_t)m * C + c;
                FN(map_gradient)(y[m] + at, scale + k, shift + k, dout + at, open_scale + own, open_shift + own,
                                 all_scale + k, all_shift + k, dy[m] + at, pixels, C, V, C);
            }
    return 0;
}

/* From the gradient of the unit's output to those of its input and of the convolutions' weights.
 *
 * A task takes one block of channels. It computes the gradients of the block's maps as sk_grad_maps does, a band of
 * rows at a time, and convolves them while they are in the cache, so they never go to memory. A band includes D rows
 * above and below, which the taps reach. If there are fewer blocks than threads, the images are dealt out over `splits`
 * tasks a block, whose weight gradients the caller adds.
 *
 * Reads x, y[m], dout: [B, H, W, C]; weight[m]: [C, G, 3, 3] of strides[m][4] floats; and what sk_grad_maps reads.
 * Writes dx: [B, H, W, C], or nothing if NULL; dweight[m]: [splits] of the weight's strides, or nothing if NULL. */
TARGET int FN(sk_backward)(const float *x, int M, const int *dilation, float *const *weight, const int *strides,
                           const float *const *y, const float *scale, const float *shift, const float *dout,
                           const float *open_scale, const float *open_shift, const float *all_scale,
                           const float *all_shift, float *dx, float *const *dweight, int B, int H, int W, int C, int G,
                           int splits, int band_rows, int threads) {
    const int block = G < V ? V : G, D = FN(largest)(M, dilation);
    const size_t image = (size_t)H * W * C, room = (size_t)(band_rows + 2 * D) * W * block, taps = (size_t)block * 9 * G;
    int failed = 0;
#pragma omp parallel num_threads(threads) reduction(| : failed)
    {
        float *ring = FN(new_ring)(G, D), *dy = FN(new_floats)(M * room);
        float *packed = FN(new_floats)(2 * M * taps); /* the transposed weights, then the weights' gradients */
        float *transposed = packed, *dw = packed ? packed + M * taps : NULL;
        const int ready = ring && dy && packed;
        failed |= !ready;
#pragma omp for collapse(2) schedule(dynamic)
        for (int split = 0; split < splits; split++)
            for (int c = 0; c < C; c += block) {
                if (!ready) continue;
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
                            FN(map_gradient)(y[m] + first, scale + k, shift + k, dout + first, open_scale + own,
                                             open_shift + own, all_scale + k, all_shift + k, dy + m * room, all * W, C,
                                             block, block);
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
        free(packed);
    }
    return failed ? NO_MEMORY : 0;
}

/* Writes the sums over `pixels` pixels of y and of its square, n vectors of channels, kept in registers. */
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

/* Calls f(..., n) for all channels, with n = 4 vectors at a time and n = 1 for the rest. */
#define FOR_CHANNELS(f, ...)                                                                                           \
    int c = 0;                                                                                                         \
    for (; c + 4 * V <= C; c += 4 * V) f(__VA_ARGS__, 4);                                                              \
    for (; c < C; c += V) f(__VA_ARGS__, 1);

/* The first pixel of the k-th of `bands` bands of an image. */
#define FIRST(k) ((int)((long)pixels * (k) / bands))

/* Writes sums: [B][bands][M][2][C], the sum of y[m] and of its square over each band of pixels, as sk_conv leaves them.
 * For units whose convolutions are torch's. */
TARGET int FN(sk_sums)(int M, const float *const *y, float *sums, int B, int pixels, int C, int bands, int threads) {
#pragma omp parallel for collapse(2) num_threads(threads)
    for (int b = 0; b < B; b++)
        for (int k = 0; k < bands; k++)
            for (int m = 0; m < M; m++) {
                const float *from = y[m] + ((size_t)b * pixels + FIRST(k)) * C;
                float *s = sums + (((size_t)b * bands + k) * M + m) * 2 * C;
                FOR_CHANNELS(FN(sums_of), from + c, s + c, FIRST(k + 1) - FIRST(k), C)
            }
    return 0;
}

/* Select: out = sum over m of attention[b][m] * u[m], with u[m] = relu(y[m] * scale[m] + shift[m]), or y[m] itself if
 * scale is NULL. Reads attention: [B][M][C]. Writes out: [B, H, W, C], which may be y[0]. */
TARGET int FN(sk_select)(int M, const float *const *y, const float *scale, const float *shift, const float *attention,
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
    return 0;
}

/* Adds to sum the sum over `pixels` pixels of relu(y * scale + shift), n vectors of channels, kept in registers. */
INLINE void FN(pool_of)(const float *y, const float *scale, const float *shift, float *sum, int pixels, int C,
                        const int n) {
    vec total[4], by[4], plus[4];
    for (int k = 0; k < n; k++) total[k] = load(sum + k * V), by[k] = load(scale + k * V), plus[k] = load(shift + k * V);
    for (int i = 0; i < pixels; i++)
        UNROLL for (int k = 0; k < n; k++) total[k] += relu_of(load(y + (size_t)i * C + k * V) * by[k] + plus[k]);
    for (int k = 0; k < n; k++) store(sum + k * V, total[k]);
}

/* Fuse's pooling. Writes pooled: [B][C], the mean over the image of the sum over m of relu(y[m] * scale[m] + shift[m]).
 * sums: [B][bands][C] is room for the sums of each band. */
TARGET int FN(sk_pool)(int M, const float *const *y, const float *scale, const float *shift, float *sums,
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
    return 0;
}

/* Writes the sums over `pixels` pixels, where the ReLU is open, of dout, of 1, of dout * y and of y; each C floats after
 * the one before. n vectors of channels, kept in registers. */
INLINE void FN(gradient_sums_of)(const float *y, const float *dout, const float *scale, const float *shift, float *sums,
                                 int pixels, int C, const int n) {
    vec sum[4][4] = {{{0}}}, by[4], plus[4];
    for (int k = 0; k < n; k++) by[k] = load(scale + k * V), plus[k] = load(shift + k * V);
    for (int i = 0; i < pixels; i++)
        UNROLL for (int k = 0; k < n; k++) {
            const vec v = load(y + (size_t)i * C + k * V), g = load(dout + (size_t)i * C + k * V);
            const FN(ints) open = v * by[k] + plus[k] > (vec){0};
            sum[k][0] += only_if(open, g);
            sum[k][1] += only_if(open, broadcast(1.0f));
            sum[k][2] += only_if(open, g * v);
            sum[k][3] += only_if(open, v);
        }
    for (int k = 0; k < n; k++)
        for (int j = 0; j < 4; j++) store(sums + (size_t)j * C + k * V, sum[k][j]);
}

/* First half of the way back, from dout to the gradient of the attention.
 *
 * Writes link: [5][B][M][C], for sk_norm_gradients: over each image, where the ReLU is open, the sums of dout, of 1, of
 * dout * y and of y; and a copy of the attention. Writes dattention: [B][M][C].
 * parts: [B][bands][M][4][C] is room for the sums of each band of pixels. */
TARGET int FN(sk_grad_sums)(int M, const float *const *y, const float *scale, const float *shift, const float *attention,
                            const float *dout, float *parts, float *link, float *dattention, int B, int pixels, int C,
                            int bands, int threads) {
    const size_t size = (size_t)M * 4 * C, plane = (size_t)B * M * C;
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
                    const size_t at = ((size_t)b * M + m) * C + c;
                    for (int j = 0; j < 4; j++) {
                        vec total = {0};
                        for (int k = 0; k < bands; k++)
                            total += load(parts + ((size_t)b * bands + k) * size + (m * 4 + j) * C + c);
                        store(link + j * plane + at, total);
                    }
                    store(link + 4 * plane + at, load(attention + at));
                    store(dattention + at, load(scale + m * C + c) * load(link + 2 * plane + at) +
                                               load(shift + m * C + c) * load(link + at));
                }
    }
    return 0;
}

/* The norms of the branches, from the sums of `parts` parts, [parts][M][2][C], over `count` pixels.
 *
 * Reads weight[m], bias[m]: [C]; eps[m]; and running[2 m], running[2 m + 1]: [C], the mean and the variance to use
 * instead of the batch's, NULL to use the batch's.
 * Writes norms: [5][M][C]: mean, rstd = 1 / sqrt(variance + eps), scale and shift, and the variance. */
TARGET int FN(sk_statistics)(int M, const float *sums, const float *const *weight, const float *const *bias,
                             const float *eps, const float *const *running, float *norms, int parts, int count, int C,
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
            vec mean, var, rstd;
            for (int l = 0; l < V; l++) {
                const double average = sum[l] / count, spread = square[l] / count - average * average;
                mean[l] = (float)average;
                var[l] = spread > 0 ? (float)spread : 0;
            }
            if (running[2 * m]) {
                mean = load(running[2 * m] + c);
                var = load(running[2 * m + 1] + c);
            }
            for (int l = 0; l < V; l++) rstd[l] = 1 / sqrtf(var[l] + eps[m]);
            const vec scale = load(weight[m] + c) * rstd;
            const size_t at = (size_t)m * C + c, plane = (size_t)M * C;
            store(norms + at, mean);
            store(norms + plane + at, rstd);
            store(norms + 2 * plane + at, scale);
            store(norms + 3 * plane + at, load(bias[m] + c) - mean * scale);
            store(norms + 4 * plane + at, var);
        }
    return 0;
}

/* Moves running statistics [C] towards those of the batch, [C] each, by the share `momentum`. The running variance is
 * that of a sample of `count` pixels, unbiased. */
TARGET int FN(sk_update_running)(const float *mean, const float *var, float *running_mean, float *running_var,
                                 float momentum, int count, int C, int threads) {
    (void)threads; /* too little to share */
    for (int c = 0; c < C; c += V) {
        const vec unbiased = load(var + c) * ((float)count / (float)(count > 1 ? count - 1 : 1));
        add_to(running_mean + c, momentum * (load(mean + c) - load(running_mean + c)));
        add_to(running_var + c, momentum * (unbiased - load(running_var + c)));
    }
    return 0;
}

/* Second half of the way back: from link (see sk_grad_sums) and dpooled, the gradient of the pooled features, to those
 * of the norms' weights and biases, and to the four vectors from which sk_grad_maps and sk_backward compute the maps'.
 *
 * A branch receives attention * dout + dpooled / pixels behind its ReLU. Going back through the norm multiplies that by
 * the scale (open_scale, open_shift); where the norm uses the statistics of the batch (by_batch[m]), every pixel also
 * receives what it contributed to the mean and the variance (all_scale, all_shift), else 0.
 *
 * Reads dpooled: [B][C]; norms: [5][M][C] of sk_statistics. Writes open_scale, open_shift: [B][M][C]; all_scale,
 * all_shift, dweight, dbias: [M][C]. */
TARGET int FN(sk_norm_gradients)(int M, const float *link, const float *dpooled, const float *norms, const int *by_batch,
                                 float *open_scale, float *open_shift, float *all_scale, float *all_shift,
                                 float *dweight, float *dbias, int B, int pixels, int C, int threads) {
    (void)threads; /* too little to share */
    const float share = 1 / (float)pixels;
    const size_t plane = (size_t)B * M * C;
    for (int m = 0; m < M; m++)
        for (int c = 0; c < C; c += V) {
            const size_t at = (size_t)m * C + c;
            const vec mean = load(norms + at), rstd = load(norms + (size_t)M * C + at),
                      scale = load(norms + (size_t)2 * M * C + at);
            vec total = {0}, total_y = {0}; /* of the gradients behind the norm, and of those times y */
            for (int b = 0; b < B; b++) {
                const size_t own = (size_t)b * M * C + at;
                const float *sum = link + own;
                const vec a = load(sum + 4 * plane), part = load(dpooled + (size_t)b * C + c) * share;
                total += a * load(sum) + part * load(sum + plane);
                total_y += a * load(sum + 2 * plane) + part * load(sum + 3 * plane);
                store(open_scale + own, scale * a);
                store(open_shift + own, scale * part);
            }
            const vec dw = (total_y - mean * total) * rstd, mine = scale * (by_batch[m] ? share / (float)B : 0);
            store(dbias + at, total);
            store(dweight + at, dw);
            store(all_scale + at, -mine * rstd * dw);
            store(all_shift + at, mine * (rstd * dw * mean - total));
        }
    return 0;
}

/* A map of any strides, [4]: of the batch, channel, row and column, in floats. */
struct FN(map) {
    const float *at;
    const int *strides;
    int H, W;
};

/* Copies row y of n <= V channels of an image to row[W][V]; zeros outside the image. */
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

/* Adds to sums[k] the products of n pixels of g with those of x that tap k of a row of taps reads. n is even. */
INLINE void FN(correlate)(const float *g, const float *x, int n, int stride, int d, const int K, vec *sums) {
    vec acc[2][9] = {{{0}}}; /* two sums a tap, so that additions wait less */
    for (int q = 0; q < n; q += 2)
        UNROLL for (int h = 0; h < 2; h++) {
            const vec of_g = load(g + (q + h) * V);
            UNROLL for (int k = 0; k < K; k++) acc[h][k] += of_g * load(x + ((q + h) * stride + k * d) * V);
        }
    UNROLL for (int k = 0; k < K; k++) sums[k] += acc[0][k] + acc[1][k];
}

/* Writes dw: [C][K][K], the gradient of the weight of a depthwise convolution with K = 3, 5, 7 or 9. C is any number.
 *
 * Reads x and grad, [B, C, H, W] and [B, C, out_H, out_W], of any strides. A task takes V channels, the lanes. It keeps
 * the K * K sums of its channels, and gathers rows of x, with the zeros that pad them, in a ring of as many rows as the
 * kernel reaches over. */
TARGET int FN(sk_depthwise_grad)(const float *x, const int *x_strides, const float *grad, const int *grad_strides,
                                  float *dw, int B, int C, int H, int W, int out_H, int out_W, int K, int stride,
                                  int dilation, int top, int left, int threads) {
    const struct FN(map) in = {x, x_strides, H, W}, out = {grad, grad_strides, out_H, out_W};
    const int reach = (K - 1) * dilation, n = out_W + out_W % 2, last = (n - 1) * stride + reach;
    const size_t cols = left + W > last ? left + W : last + 1;
    int failed = 0;
#pragma omp parallel num_threads(threads) reduction(| : failed)
    {
        /* zeros, because copy_row leaves the padding of a row alone */
        float *ring = calloc(((reach + 1) * cols + n) * V, sizeof(float));
        float *g = ring ? ring + (reach + 1) * cols * V : NULL;
        failed |= !ring;
#pragma omp for
        for (int c = 0; c < C; c += V) {
            if (!ring) continue;
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
    return failed ? NO_MEMORY : 0;
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
