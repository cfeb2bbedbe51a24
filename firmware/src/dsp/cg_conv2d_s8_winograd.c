/*
 * 3x3 convolution for DSP cores, stride 1, padding 1, by Winograd's F(4x4, 3x3): 36 products for 16
 * outputs instead of 144, and exact.
 *
 * With u = x + 128 and a tile d of 6x6 inputs, the outputs are A^T [(G g G^T) * (B^T d B)] A. The
 * usual G has fractions (1/4, 1/6, 1/24). Here its rows are scaled to integers, so that output
 * (r, c) comes out times 9 * 2^(k[r] + k[c]), k = 3, 2, 1, 1. All sums are modulo 2^32: they may
 * wrap, and multiplying by 1/9 modulo 2^32 and shifting back gives the exact accumulator as long as
 * 64 times that fits int32, |sum w u| < 2^25. The exporter checks this for every output channel,
 * and that the transformed weights fit int16; the transformed inputs always do.
 *
 * A strip of four output rows at a time: stage 1 transforms vertically, the whole strip; then for
 * every two tiles stage 2 transforms horizontally, cg_dsp_mac multiplies, and the inverse transform
 * and requantisation follow, for four output channels at a time.
 *
 * Packed weights: cg_dsp_channel [out_channels], then words
 * [out_channels / 4][36 positions][in_channels / 2][4 output channels].
 */
#include "cg_dsp.h"

#if defined(__ARM_FEATURE_DSP)

enum {
    TILE = 4,                    /* output rows and columns of a tile */
    WINDOW = TILE + 2,           /* input rows and columns of a tile */
    POSITIONS = WINDOW * WINDOW, /* products per tile and pair of channels */
    TILES = 2,                   /* tiles side by side that are multiplied together */
    SPAN = TILES * TILE,         /* output columns of these */
    LANES = 4,                   /* output channels that are multiplied together */
    BLOCK = TILES * LANES,       /* sums per position */
};

/* 1/9 modulo 2^32 */
#define NINTH 0x38e38e39u

/* GCC interleaves independent blocks until it runs out of registers; this keeps it from that. */
#define KEEP_APART() __asm volatile("" ::: "memory")

/* Where the parts of the scratch memory begin, in words. */
typedef struct {
    size_t columns;  /* of the strip: left padding, whole spans, right padding */
    size_t products; /* transformed tiles [36][pairs][2]; before, the rows of a strip at a border */
    size_t sums;     /* [36][8] */
    size_t edge;     /* outputs of a span that is not wholly inside, [4][8][out_channels] bytes */
    size_t end;
} layout;

static layout lay_out(const cg_conv2d_s8 *p) {
    const size_t pairs = (size_t)p->in_channels / 2;
    const size_t spans = ((size_t)p->in_width + SPAN - 1) / SPAN;
    const size_t tiles = POSITIONS * pairs * TILES;
    const size_t rows = (size_t)WINDOW * p->in_width * p->in_channels / 4;
    layout at;
    at.columns = spans * SPAN + 2;
    at.products = at.columns * pairs * WINDOW;
    at.sums = at.products + (tiles > rows ? tiles : rows);
    at.edge = at.sums + POSITIONS * BLOCK;
    at.end = at.edge + (size_t)TILE * SPAN * p->out_channels / 4;
    return at;
}

/* B^T of d0..d5 whose halves are not negative, so that a plain shift keeps them apart. */
static inline void transform_unsigned(uint32_t d0, uint32_t d1, uint32_t d2, uint32_t d3,
                                      uint32_t d4, uint32_t d5, uint32_t *to) {
    const uint32_t a = cg_dsp_subtract(d4, d2 << 2), b = cg_dsp_subtract(d3, d1 << 2);
    to[1] = cg_dsp_add(a, b);
    to[2] = cg_dsp_subtract(a, b);
    to[0] = cg_dsp_add(a, cg_dsp_subtract(d0 << 2, d2));
    to[5] = cg_dsp_subtract(cg_dsp_subtract(d5, d3 << 2), b);
    const uint32_t c = cg_dsp_subtract(d4, d2);
    uint32_t e = cg_dsp_subtract(d3, d1);
    e = cg_dsp_add(e, e);
    to[3] = cg_dsp_add(c, e);
    to[4] = cg_dsp_subtract(c, e);
}

/* The same for signed halves; results go `step` words apart. */
static inline void transform_signed(uint32_t d0, uint32_t d1, uint32_t d2, uint32_t d3, uint32_t d4,
                                    uint32_t d5, uint32_t *to, size_t step) {
    const uint32_t c = cg_dsp_subtract(d4, d2);
    uint32_t e = cg_dsp_subtract(d3, d1);
    e = cg_dsp_add(e, e);
    to[3 * step] = cg_dsp_add(c, e);
    to[4 * step] = cg_dsp_subtract(c, e);
    const uint32_t f = cg_dsp_subtract(d5, d3);
    to[5 * step] = cg_dsp_subtract(cg_dsp_subtract(f, e), e);
    uint32_t g = cg_dsp_subtract(d0, d2);
    g = cg_dsp_add(g, g);
    to[0] = cg_dsp_add(cg_dsp_add(g, g), c);
    uint32_t h = cg_dsp_add(d2, d2);
    const uint32_t a = cg_dsp_subtract(d4, cg_dsp_add(h, h));
    h = cg_dsp_add(d1, d1);
    const uint32_t b = cg_dsp_subtract(d3, cg_dsp_add(h, h));
    to[step] = cg_dsp_add(a, b);
    to[2 * step] = cg_dsp_subtract(a, b);
}

/* Stage 1: six rows of `row` bytes to T[column][pair][6]. */
static __attribute__((noinline)) void transform_rows(const int8_t *in, size_t row, uint32_t *to) {
    const uint32_t offset = 0x00800080;
    for (const int8_t *const end = in + row; in != end; in += 4, to += 2 * WINDOW) {
        /* Two base addresses reach all six rows with scaled register offsets. */
        const int8_t *const next = in + row;
#define ROWS(widen, to)                                                                            \
    transform_unsigned(                                                                            \
        widen(offset, cg_dsp_load(in)), widen(offset, cg_dsp_load(next)),                          \
        widen(offset, cg_dsp_load(in + 2 * row)), widen(offset, cg_dsp_load(next + 2 * row)),      \
        widen(offset, cg_dsp_load(in + 4 * row)), widen(offset, cg_dsp_load(next + 4 * row)), to)
        ROWS(cg_dsp_widen_even, to);
        KEEP_APART();
        ROWS(cg_dsp_widen_odd, to + WINDOW);
#undef ROWS
    }
}

/* The rows first .. first + 5 of the input, those outside filled with the zero point. */
static void copy_rows(const cg_conv2d_s8 *p, const int8_t *input, int first, uint32_t *to) {
    const size_t words = (size_t)p->in_width * p->in_channels / 4;
    const uint32_t zero = (uint8_t)p->in_zero_point * 0x01010101u;
    for (int y = first; y < first + WINDOW; y++) {
        const uint32_t *const end = to + words;
        if (y < 0 || y >= p->in_height) {
            while (to != end) {
                *to++ = zero;
            }
        } else {
            const int8_t *in = input + (size_t)y * words * 4;
            for (; to != end; in += 4) {
                *to++ = cg_dsp_load(in);
            }
        }
    }
}

/* Stage 2: from the transformed strip, at the first column of two tiles, to V[36][pair][2]. */
static __attribute__((noinline)) void transform_columns(const uint32_t *strip, size_t pairs,
                                                        uint32_t *to) {
    const size_t column = pairs * WINDOW;
    for (int r = 0; r < WINDOW; r++, strip++, to += WINDOW * pairs * TILES) {
        const uint32_t *in = strip;
        uint32_t *out = to;
        for (const uint32_t *const end = in + column; in != end; in += WINDOW, out += TILES) {
            const uint32_t *const right = in + TILE * column;
            transform_signed(in[0], in[column], in[2 * column], in[3 * column], in[4 * column],
                             in[5 * column], out, pairs * TILES);
            KEEP_APART();
            transform_signed(right[0], right[column], right[2 * column], right[3 * column],
                             right[4 * column], right[5 * column], out + 1, pairs * TILES);
        }
    }
}

/* A^T of m0..m5, rows scaled by 24, 12, 6, 6. */
#define INVERT(m0, m1, m2, m3, m4, m5, y0, y1, y2, y3)                                             \
    do {                                                                                           \
        const uint32_t s_ = (m1) + (m2), d_ = (m1) - (m2);                                         \
        const uint32_t t_ = (m3) + (m4), e_ = (m3) - (m4);                                         \
        (y0) = (m0) + t_ - 4 * s_;                                                                 \
        (y1) = e_ - 2 * d_;                                                                        \
        (y2) = t_ - s_;                                                                            \
        (y3) = (m5) + 2 * e_ - d_;                                                                 \
    } while (0)

/* The inverse transform and requantisation of one tile and output channel. `row` and `pixel` are
 * the distances of outputs, in bytes. */
static inline __attribute__((always_inline)) void invert_tile(const uint32_t *sums,
                                                              const cg_dsp_channel *channel,
                                                              int8_t *out, size_t row, size_t pixel,
                                                              const cg_conv2d_s8 *p, int fast) {
    uint32_t half[TILE][WINDOW];
    for (int j = 0; j < WINDOW; j++, sums += BLOCK) {
        enum { ROW = BLOCK * WINDOW };
        const uint32_t m0 = sums[0], m1 = sums[ROW], m2 = sums[2 * ROW], m3 = sums[3 * ROW],
                       m4 = sums[4 * ROW], m5 = sums[5 * ROW];
        INVERT(m0, m1, m2, m3, m4, m5, half[0][j], half[1][j], half[2][j], half[3][j]);
    }
    KEEP_APART();
    const cg_dsp_channel c = *channel;
    uint32_t ninth = NINTH;
    __asm("" : "+r"(ninth)); /* in a register, not built again for every output */
/* (y / 9) >> (k[r] + k[c]) is the accumulator; one less gives twice the accumulator. */
#define OUT(y, scale, x)                                                                           \
    do {                                                                                           \
        const int32_t doubled_ = ((int32_t)((y)*ninth) >> ((scale)-1)) + c.bias2;                  \
        out[(x)*pixel] =                                                                           \
            fast ? cg_dsp_requant(doubled_, &c) : cg_dsp_requant_any(doubled_, &c, p);             \
        KEEP_APART();                                                                              \
    } while (0)
#define ROW(r, scale)                                                                              \
    do {                                                                                           \
        const uint32_t *const h_ = half[r];                                                        \
        uint32_t y0_, y1_, y2_, y3_;                                                               \
        INVERT(h_[0], h_[1], h_[2], h_[3], h_[4], h_[5], y0_, y1_, y2_, y3_);                      \
        OUT(y0_, (scale) + 3, 0);                                                                  \
        OUT(y1_, (scale) + 2, 1);                                                                  \
        OUT(y2_, (scale) + 1, 2);                                                                  \
        OUT(y3_, (scale) + 1, 3);                                                                  \
        out += row;                                                                                \
    } while (0)
    ROW(0, 3);
    ROW(1, 2);
    ROW(2, 1);
    ROW(3, 1);
#undef ROW
#undef OUT
}

/* All tiles and channels of a block of sums [36][8]. */
static __attribute__((noinline)) void invert_fast(const uint32_t *sums,
                                                  const cg_dsp_channel *channels, int8_t *out,
                                                  size_t row, size_t pixel) {
    for (int i = 0; i < BLOCK; i++) {
        int8_t *const to = out + (size_t)(i / LANES) * TILE * pixel + i % LANES;
        invert_tile(sums + i, channels + i % LANES, to, row, pixel, NULL, 1);
    }
}

static __attribute__((noinline)) void invert_any(const uint32_t *sums,
                                                 const cg_dsp_channel *channels, int8_t *out,
                                                 size_t row, size_t pixel, const cg_conv2d_s8 *p) {
    for (int i = 0; i < BLOCK; i++) {
        int8_t *const to = out + (size_t)(i / LANES) * TILE * pixel + i % LANES;
        invert_tile(sums + i, channels + i % LANES, to, row, pixel, p, 0);
    }
}

/* The columns of padding, left and right, do not change from strip to strip: of a constant column
 * only component 1 of the vertical transform is not zero. */
static void pad_columns(const cg_conv2d_s8 *p, size_t columns, uint32_t *strip) {
    const uint32_t pad = cg_dsp_pair(-6 * (p->in_zero_point + 128));
    const size_t words = (size_t)p->in_channels / 2 * WINDOW;
    for (size_t x = 0; x < columns; x = x == 0 ? (size_t)p->in_width + 1 : x + 1) {
        uint32_t *const to = strip + x * words;
        for (size_t i = 0; i < words; i++) {
            to[i] = i % WINDOW == 1 ? pad : 0;
        }
    }
}

cg_status cg_conv2d_s8__dsp_winograd(const cg_conv2d_s8 *parameters, const int8_t *input,
                                     int8_t *output, void *scratch) {
    const cg_conv2d_s8 *const p = parameters;
    int fast;
    const cg_status status = cg_dsp_check(p, input, output, scratch, &fast);
    if (status != CG_OK) {
        return status;
    }
    if (p->kernel_height != 3 || p->kernel_width != 3 || p->stride != 1 || p->pad_top != 1 ||
        p->pad_left != 1 || p->in_height != p->out_height || p->in_width != p->out_width ||
        p->in_channels % 4 != 0 || p->in_channels == 0 || p->out_channels % 4 != 0) {
        return CG_ERR_PARAM;
    }
    const layout at = lay_out(p);
    const int height = p->in_height, width = p->in_width;
    const size_t pairs = (size_t)p->in_channels / 2, pixel = p->out_channels;
    const size_t in_row = (size_t)width * p->in_channels, out_row = (size_t)width * pixel;
    uint32_t *const strip = scratch;
    uint32_t *const products = strip + at.products;
    uint32_t *const sums = strip + at.sums;
    int8_t *const edge = (int8_t *)(strip + at.edge);
    const cg_dsp_channel *const channels = p->packed;
    const uint32_t *const weights = (const uint32_t *)(const void *)(channels + p->out_channels);

    pad_columns(p, at.columns, strip);
    for (int y = 0; y < height; y += TILE, output += TILE * out_row) {
        if (y == 0 || y + TILE + 1 > height) {
            copy_rows(p, input, y - 1, products);
            transform_rows((const int8_t *)products, in_row, strip + pairs * WINDOW);
        } else {
            transform_rows(input + (size_t)(y - 1) * in_row, in_row, strip + pairs * WINDOW);
        }
        const int rows = height - y < TILE ? height - y : TILE;
        for (int x = 0; x < width; x += SPAN) {
            const int columns = width - x < SPAN ? width - x : SPAN;
            const int inside = rows == TILE && columns == SPAN;
            int8_t *const out = output + (size_t)x * pixel;
            int8_t *const to = inside ? out : edge;
            const size_t row = inside ? out_row : SPAN * pixel;
            transform_columns(strip + (size_t)x * pairs * WINDOW, pairs, products);
            const uint32_t *weight = weights;
            for (size_t o = 0; o < pixel; o += LANES, weight += POSITIONS * pairs * LANES) {
                cg_dsp_mac(products, weight, (uint32_t)pairs, POSITIONS, (int32_t *)sums);
                if (fast) {
                    invert_fast(sums, channels + o, to + o, row, pixel);
                } else {
                    invert_any(sums, channels + o, to + o, row, pixel, p);
                }
            }
            for (int r = 0; !inside && r < rows; r++) {
                const int8_t *from = edge + (size_t)r * row;
                int8_t *copy = out + (size_t)r * out_row;
                for (const int8_t *const end = from + (size_t)columns * pixel; from != end;
                     from += 4, copy += 4) {
                    cg_dsp_store(copy, cg_dsp_load(from));
                }
            }
        }
    }
    return CG_OK;
}

size_t cg_conv2d_s8__dsp_winograd_scratch(const cg_conv2d_s8 *parameters) {
    return lay_out(parameters).end * sizeof(uint32_t);
}

#endif
