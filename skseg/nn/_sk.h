/* The kernels for one instruction set: V lanes, TILE pixels at a time.
 *
 * B, H, W, C: batch, height, width, channels; maps are [B, H, W, C]; C is a multiple of V. M: branches. Convolutions
 * have groups of G = 4 channels, kernels of 3x3, stride 1 and padding equal to their dilation. A packed weight is
 * [9 taps][G][C]: for each output channel (the last index) the weight of the j-th input channel of its group. */

typedef float FN(vec) __attribute__((vector_size(4 * V), aligned(4)));
typedef int FN(ints) __attribute__((vector_size(4 * V)));
#define vec FN(vec)
#define load(p) (*(const vec *)(p))
#define store(p, v) (*(vec *)(p) = (v))
#define only_if(condition, v) ((vec)((FN(ints))(v) & (condition)))
#define relu_of(v) only_if(~((v) <= zero), v) /* keeps NaN */
#define INLINE TARGET static inline __attribute__((always_inline))
#define WIDTH (G * V) /* of a gathered pixel */
#define UNROLL _Pragma("GCC unroll 16")

/* Copies `cols` pixels of row y, from x on, into `row`; zeros outside the image.
 *
 * Each pixel becomes G vectors, the j-th with the j-th channel of each lane's group: a tap is then one multiply-add. */
INLINE void FN(gather)(const float *image, int H, int W, int C, int y, int x, int cols, float *row) {
    FN(ints) lane[G];
    for (int j = 0; j < G; j++)
        for (int l = 0; l < V; l++) lane[j][l] = l / G * G + j;
    if (y < 0 || y >= H) {
        memset(row, 0, (size_t)cols * WIDTH * sizeof(float));
        return;
    }
    const int left = x < 0 ? -x : 0, end = W - x < cols ? W - x : cols, right = end > left ? end : left;
    memset(row, 0, (size_t)left * WIDTH * sizeof(float));
    memset(row + (size_t)right * WIDTH, 0, (size_t)(cols - right) * WIDTH * sizeof(float));
    const float *pixel = image + ((ptrdiff_t)y * W + x + left) * C;
    for (int q = left; q < right; q++, pixel += C)
        UNROLL for (int j = 0; j < G; j++) store(row + q * WIDTH + j * V, __builtin_shuffle(load(pixel), lane[j]));
}

/* A band of rows of V channels: the M convolutions of one image, over a ring of gathered input rows. Pointers are to the
 * first of the V channels. */
INLINE void FN(conv_band)(const float *image, int H, int W, int C, int y0, int rows, int M, const int *dilation, int D,
                          const float *const *weight, const float *const *bias, float *const *y, int c0, int relu,
                          int accumulate, float *ring, vec *sum, vec *square) {
    const int cols = TILE + 2 * D, depth = 2 * D + 1;
    const size_t line = (size_t)cols * WIDTH;
    const vec zero = {0};
    for (int x0 = 0; x0 < W; x0 += TILE) {
        const int n = W - x0 < TILE ? W - x0 : TILE;
        for (int r = 0; r < 2 * D; r++)
            FN(gather)(image, H, W, C, y0 + r - D, x0 - D, cols, ring + line * r);
        for (int r = 0; r < rows; r++) {
            FN(gather)(image, H, W, C, y0 + r + D, x0 - D, cols, ring + line * ((r + 2 * D) % depth));
            for (int m = 0; m < M; m++) {
                const int d = dilation[m];
                const vec start = bias ? load(bias[m] + c0) : zero;
                vec acc[TILE];
                UNROLL for (int i = 0; i < TILE; i++) acc[i] = start;
                for (int ky = 0; ky < 3; ky++) {
                    const float *s = ring + line * ((r + D + (ky - 1) * d) % depth) + (size_t)(D - d) * WIDTH;
                    const float *w = weight[m] + (size_t)ky * 3 * G * C + c0;
                    for (int kx = 0; kx < 3; kx++, s += (size_t)d * WIDTH)
                        UNROLL for (int j = 0; j < G; j++, w += C) {
                            const vec tap = load(w);
                            UNROLL for (int i = 0; i < TILE; i++) acc[i] += tap * load(s + i * WIDTH + j * V);
                        }
                }
                float *out = y[m] + ((size_t)(y0 + r) * W + x0) * C + c0;
                UNROLL for (int i = 0; i < TILE; i++) {
                    if (i >= n) break;
                    vec v = acc[i];
                    if (accumulate) v += load(out + (size_t)i * C);
                    if (relu) v = relu_of(v);
                    store(out + (size_t)i * C, v);
                    sum[m] += v;
                    square[m] += v * v;
                }
            }
        }
    }
}

/* y[m] = conv(x, weight[m]) + bias[m], then ReLU if `relu`; `accumulate` adds to what is in y.
 *
 * sums: [B][bands][M][2][C], the sum and the sum of squares of what was stored, over each band of `band_rows` rows. */
TARGET void FN(sk_conv)(const float *x, int M, const int *dilation, const float *const *weight, const float *const *bias,
                        float *const *y, float *sums, int B, int H, int W, int C, int relu, int accumulate, int band_rows,
                        int threads) {
    int D = 1;
    for (int m = 0; m < M; m++) D = dilation[m] > D ? dilation[m] : D;
    const int bands = (H + band_rows - 1) / band_rows;
    const size_t image = (size_t)H * W * C, size = (size_t)(2 * D + 1) * (TILE + 2 * D) * WIDTH * sizeof(float);
#pragma omp parallel num_threads(threads)
    {
        float *ring = aligned_alloc(64, (size + 63) / 64 * 64);
#pragma omp for collapse(2) schedule(dynamic)
        for (int b = 0; b < B; b++)
            for (int band = 0; band < bands; band++)
                for (int c0 = 0; c0 < C; c0 += V) {
                    const int y0 = band * band_rows, rows = H - y0 < band_rows ? H - y0 : band_rows;
                    vec sum[MAX_BRANCHES] = {{0}}, square[MAX_BRANCHES] = {{0}};
                    float *out[MAX_BRANCHES];
                    for (int m = 0; m < M; m++) out[m] = y[m] + b * image;
                    FN(conv_band)(x + b * image + c0, H, W, C, y0, rows, M, dilation, D, weight, bias, out, c0, relu,
                                  accumulate, ring, sum, square);
                    for (int m = 0; sums && m < M; m++) {
                        float *s = sums + (((size_t)(b * bands + band) * M + m) * 2) * C + c0;
                        store(s, sum[m]);
                        store(s + C, square[m]);
                    }
                }
        free(ring);
    }
}

/* Adds one image's part to the weight gradients of V channels: `dweight` is packed like a weight. */
INLINE void FN(dweight_image)(const float *image, int H, int W, int C, int M, const int *dilation, int D,
                              const float *const *dy, float *const *dweight, float *ring) {
    const int cols = TILE + 2 * D, depth = 2 * D + 1;
    const size_t line = (size_t)cols * WIDTH;
    for (int x0 = 0; x0 < W; x0 += TILE) {
        const int n = W - x0 < TILE ? W - x0 : TILE;
        for (int r = 0; r < 2 * D; r++) FN(gather)(image, H, W, C, r - D, x0 - D, cols, ring + line * r);
        for (int r = 0; r < H; r++) {
            FN(gather)(image, H, W, C, r + D, x0 - D, cols, ring + line * ((r + 2 * D) % depth));
            for (int m = 0; m < M; m++) {
                const int d = dilation[m];
                const float *grad = dy[m] + ((size_t)r * W + x0) * C;
                for (int ky = 0; ky < 3; ky++) {
                    const float *s = ring + line * ((r + D + (ky - 1) * d) % depth) + (size_t)(D - d) * WIDTH;
                    float *out = dweight[m] + (size_t)ky * 3 * G * C;
                    vec acc[3 * G];
                    UNROLL for (int k = 0; k < 3 * G; k++) acc[k] = load(out + (size_t)k * C);
                    for (int i = 0; i < n; i++) {
                        const vec g = load(grad + (size_t)i * C);
                        UNROLL for (int k = 0; k < 3 * G; k++) acc[k] +=
                            g * load(s + (size_t)(i + k / G * d) * WIDTH + k % G * V);
                    }
                    UNROLL for (int k = 0; k < 3 * G; k++) store(out + (size_t)k * C, acc[k]);
                }
            }
        }
    }
}

/* sums: [B][bands][M][2][C] over a band of pixels, zero before: of y and of its square. */
TARGET void FN(sk_sums)(int M, const float *const *y, float *sums, int B, int pixels, int C, int bands, int threads) {
#pragma omp parallel for collapse(2) num_threads(threads)
    for (int b = 0; b < B; b++)
        for (int band = 0; band < bands; band++) {
            const int first = (int)((long)pixels * band / bands), last = (int)((long)pixels * (band + 1) / bands);
            for (int p = first; p < last; p++)
                for (int m = 0; m < M; m++) {
                    const float *from = y[m] + ((size_t)b * pixels + p) * C;
                    float *s = sums + (((size_t)b * bands + band) * M + m) * 2 * C;
                    for (int c = 0; c < C; c += V) {
                        const vec v = load(from + c);
                        store(s + c, load(s + c) + v);
                        store(s + C + c, load(s + C + c) + v * v);
                    }
                }
        }
}

/* dweight[m]: [splits][9][G][C], zero before; the images are dealt out over the splits. */
TARGET void FN(sk_dweight)(const float *x, int M, const int *dilation, const float *const *dy, float *const *dweight,
                           int B, int H, int W, int C, int splits, int threads) {
    int D = 1;
    for (int m = 0; m < M; m++) D = dilation[m] > D ? dilation[m] : D;
    const size_t image = (size_t)H * W * C, size = (size_t)(2 * D + 1) * (TILE + 2 * D) * WIDTH * sizeof(float);
#pragma omp parallel num_threads(threads)
    {
        float *ring = aligned_alloc(64, (size + 63) / 64 * 64);
#pragma omp for collapse(2) schedule(dynamic)
        for (int split = 0; split < splits; split++)
            for (int c0 = 0; c0 < C; c0 += V)
                for (int b = split; b < B; b += splits) {
                    const float *grad[MAX_BRANCHES];
                    float *out[MAX_BRANCHES];
                    for (int m = 0; m < M; m++) {
                        grad[m] = dy[m] + b * image + c0;
                        out[m] = dweight[m] + (size_t)split * 9 * G * C + c0;
                    }
                    FN(dweight_image)(x + b * image + c0, H, W, C, M, dilation, D, grad, out, ring);
                }
        free(ring);
    }
}

/* out = sum over m of attention[b][m] * u[m], where u = relu(y * scale[m] + shift[m]), or y itself without scale.
 * attention: [B][M][C]. */
TARGET void FN(sk_select)(int M, const float *const *y, const float *scale, const float *shift, const float *attention,
                          float *out, int B, int pixels, int C, int threads) {
    const vec zero = {0};
#pragma omp parallel for collapse(2) num_threads(threads)
    for (int b = 0; b < B; b++)
        for (int p = 0; p < pixels; p++) {
            const size_t at = ((size_t)b * pixels + p) * C;
            for (int c = 0; c < C; c += V) {
                vec v = zero;
                for (int m = 0; m < M; m++) {
                    vec u = load(y[m] + at + c);
                    if (scale) u = relu_of(u * load(scale + m * C + c) + load(shift + m * C + c));
                    v += u * load(attention + ((size_t)b * M + m) * C + c);
                }
                store(out + at + c, v);
            }
        }
}

/* pooled: [B][bands][C], the sum over a band of pixels and over m of relu(y * scale[m] + shift[m]). */
TARGET void FN(sk_pool)(int M, const float *const *y, const float *scale, const float *shift, float *pooled, int B,
                        int pixels, int C, int bands, int threads) {
    const vec zero = {0};
#pragma omp parallel for collapse(2) num_threads(threads)
    for (int b = 0; b < B; b++)
        for (int band = 0; band < bands; band++) {
            const int first = (int)((long)pixels * band / bands), last = (int)((long)pixels * (band + 1) / bands);
            float *sum = pooled + ((size_t)b * bands + band) * C;
            for (int p = first; p < last; p++) {
                const size_t at = ((size_t)b * pixels + p) * C;
                for (int c = 0; c < C; c += V) {
                    vec v = load(sum + c);
                    for (int m = 0; m < M; m++)
                        v += relu_of(load(y[m] + at + c) * load(scale + m * C + c) + load(shift + m * C + c));
                    store(sum + c, v);
                }
            }
        }
}

/* sums: [B][bands][M][4][C] over a band of pixels, where the ReLU passes: of dout, of 1, of dout * y, of y. */
TARGET void FN(sk_grad_sums)(int M, const float *const *y, const float *scale, const float *shift, const float *dout,
                             float *sums, int B, int pixels, int C, int bands, int threads) {
    const vec zero = {0}, one = zero + 1;
#pragma omp parallel for collapse(2) num_threads(threads)
    for (int b = 0; b < B; b++)
        for (int band = 0; band < bands; band++) {
            const int first = (int)((long)pixels * band / bands), last = (int)((long)pixels * (band + 1) / bands);
            for (int p = first; p < last; p++) {
                const size_t at = ((size_t)b * pixels + p) * C;
                for (int m = 0; m < M; m++) {
                    float *s = sums + (((size_t)b * bands + band) * M + m) * 4 * C;
                    for (int c = 0; c < C; c += V) {
                        const vec v = load(y[m] + at + c), g = load(dout + at + c);
                        const FN(ints) passes = v * load(scale + m * C + c) + load(shift + m * C + c) > zero;
                        store(s + c, load(s + c) + only_if(passes, g));
                        store(s + C + c, load(s + C + c) + only_if(passes, one));
                        store(s + 2 * C + c, load(s + 2 * C + c) + only_if(passes, g * v));
                        store(s + 3 * C + c, load(s + 3 * C + c) + only_if(passes, v));
                    }
                }
            }
        }
}

/* dy[m] = (p[b][m] * dout + q[b][m] where the ReLU passes, else 0) + r[m] * y + s[m]. */
TARGET void FN(sk_grad_maps)(int M, const float *const *y, const float *scale, const float *shift, const float *dout,
                             const float *p, const float *q, const float *r, const float *s, float *const *dy, int B,
                             int pixels, int C, int threads) {
    const vec zero = {0};
#pragma omp parallel for collapse(2) num_threads(threads)
    for (int b = 0; b < B; b++)
        for (int pixel = 0; pixel < pixels; pixel++) {
            const size_t at = ((size_t)b * pixels + pixel) * C;
            for (int m = 0; m < M; m++) {
                const size_t own = ((size_t)b * M + m) * C;
                for (int c = 0; c < C; c += V) {
                    const vec v = load(y[m] + at + c), g = load(dout + at + c);
                    const FN(ints) passes = v * load(scale + m * C + c) + load(shift + m * C + c) > zero;
                    const vec through = only_if(passes, load(p + own + c) * g + load(q + own + c));
                    store(dy[m] + at + c, through + load(r + m * C + c) * v + load(s + m * C + c));
                }
            }
        }
}

#undef vec
#undef load
#undef store
#undef only_if
#undef relu_of
#undef INLINE
#undef UNROLL
#undef WIDTH
#undef ISA
#undef V
#undef TILE
#undef TARGET
