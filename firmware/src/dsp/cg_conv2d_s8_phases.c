/*
 * 3x3 convolution for DSP cores, stride 2, by its phases: 25 products for 4 outputs, not 36.
 *
 * Along one axis, two outputs of a window x0..x4 are
 *
 *     y0 = w0 x0 + w1 x1 + w2 x2,   y1 = w0 x2 + w1 x3 + w2 x4:
 *
 * the inputs with even numbers are convolved with (w0, w2), which Winograd's F(2, 2) does in three
 * products instead of four, and those with odd numbers are multiplied by w1:
 *
 *     A = w0 (x0 - x2) + w1 x1,   B = (w0 + w2) x2,   C = w2 (x4 - x2) + w1 x3,
 *     y0 = A + B,                 y1 = B + C.
 *
 * So there are five factors of x and of w ("parts", in the order of x0..x4) and three sums. Nothing
 * is divided or scaled: with sums modulo 2^32 the outputs are exact whenever the accumulator fits,
 * and factors, at most 4 * 128 and 2 * 4 * 127 on two axes, fit int16. On two axes nine sums: AA,
 * AC, CA, CC have 4 parts, AB, CB, BA, BC have 2, BB has 1. x is the input as it is, padded with
 * its zero point; the zero point's share is in the bias.
 *
 * A span is two tiles of 2x2 outputs side by side. For each, its 25 parts are made of all channels;
 * then, for four output channels at a time, cg_dsp_mac multiplies, and nine sums become outputs.
 *
 * Packed weights: cg_dsp_channel [out_channels], then words
 * [out_channels / 4][9 sums][in_channels / 2][parts of the sum][4 output channels] of doubled
 * weights.
 */
#include "cg_dsp.h"

#if defined(__ARM_FEATURE_DSP)

enum {
    TILE = 2,                   /* output rows and columns of a tile */
    TILES = 2,                  /* in a span */
    SPAN = TILES * TILE,        /* output columns of a span */
    WINDOW = 2 * TILE + 1,      /* input rows and columns of a tile */
    WINDOW_SPAN = 2 * SPAN + 1, /* input columns of a span */
    PARTS = WINDOW * WINDOW,    /* products per tile and pair of channels */
    SUMS = 9,                   /* per tile and output channel */
    LANES = 4,                  /* output channels at a time */
    BLOCK = TILES * LANES,      /* sums side by side */
    CORNERS = 4,
    CORNER = 4, /* sums of four parts each, */
    EDGES = 4,
    EDGE = 2, /* then of two parts; one of a single part follows */
    FIRST_EDGE = CORNERS * CORNER,
    CENTRE = FIRST_EDGE + EDGES * EDGE,
};

/* Inputs of a span, then a window at the border or the sums. */
static size_t inputs_words(const cg_conv2d_s8 *p) {
    return (size_t)PARTS * p->in_channels / 2 * TILES;
}

/* The inputs of a span whose window begins at top, left and is not wholly inside, with padding. */
static __attribute__((noinline)) void copy_window(const cg_conv2d_s8 *p, const int8_t *input,
                                                  int top, int left, uint32_t *to) {
    const uint32_t zero = (uint8_t)p->in_zero_point * 0x01010101u;
    const size_t words = (size_t)p->in_channels / 4;
    for (int y = top; y < top + WINDOW; y++) {
        for (int x = left; x < left + WINDOW_SPAN; x++) {
            if (y < 0 || y >= p->in_height || x < 0 || x >= p->in_width) {
                for (size_t i = 0; i < words; i++) {
                    *to++ = zero;
                }
                continue;
            }
            const int8_t *const in = input + ((size_t)y * p->in_width + (size_t)x) * p->in_channels;
            for (size_t i = 0; i < words; i++) {
                *to++ = cg_dsp_load(in + i * 4);
            }
        }
    }
}

typedef struct {
    uint32_t x0, x1, x2, x3, x4;
} parts;

/* Five inputs side by side to their parts along the row. */
static inline parts across(const int8_t *in, size_t pixel, int odd) {
    const uint32_t w0 = cg_dsp_load(in), w1 = cg_dsp_load(in + pixel),
                   w2 = cg_dsp_load(in + 2 * pixel), w3 = cg_dsp_load(in + 3 * pixel),
                   w4 = cg_dsp_load(in + 4 * pixel);
    const uint32_t middle = cg_dsp_spread(w2, odd);
    const parts h = {cg_dsp_subtract(cg_dsp_spread(w0, odd), middle), cg_dsp_spread(w1, odd),
                     middle, cg_dsp_spread(w3, odd),
                     cg_dsp_subtract(cg_dsp_spread(w4, odd), middle)};
    return h;
}

static inline parts minus(parts a, parts b) {
    const parts c = {cg_dsp_subtract(a.x0, b.x0), cg_dsp_subtract(a.x1, b.x1),
                     cg_dsp_subtract(a.x2, b.x2), cg_dsp_subtract(a.x3, b.x3),
                     cg_dsp_subtract(a.x4, b.x4)};
    return c;
}

/* A row of parts: two for the sum with A, two for that with C, one for that with B. */
static inline void store(parts h, uint32_t *a, uint32_t *c, uint32_t *b) {
    a[0] = h.x0;
    a[TILES] = h.x1;
    c[0] = h.x3;
    c[TILES] = h.x4;
    b[0] = h.x2;
}

/* One pair of channels of a tile to its parts: where those of AA, AB and BB go, and the distances
 * of corners and of edges. */
static inline __attribute__((always_inline)) void transform(const int8_t *in, size_t row,
                                                            size_t pixel, int odd, uint32_t *corner,
                                                            size_t corner_step, uint32_t *edge,
                                                            size_t edge_step, uint32_t *centre) {
    const parts middle = across(in + 2 * row, pixel, odd);
    store(middle, edge + 2 * edge_step, edge + 3 * edge_step, centre);
    store(minus(across(in, pixel, odd), middle), corner, corner + corner_step, edge);
    in += row;
    store(across(in, pixel, odd), corner + 2 * TILES, corner + corner_step + 2 * TILES,
          edge + TILES);
    corner += 2 * corner_step;
    edge += edge_step;
    in += 2 * row;
    store(across(in, pixel, odd), corner, corner + corner_step, edge);
    in += row;
    store(minus(across(in, pixel, odd), middle), corner + 2 * TILES,
          corner + corner_step + 2 * TILES, edge + TILES);
}

/* The inputs [sums][pairs][parts][2 tiles] of a span. */
static __attribute__((noinline)) void transform_span(const int8_t *in, size_t row, size_t pixel,
                                                     uint32_t *to) {
    const size_t step = pixel / 2 * TILES;
    for (int tile = 0; tile < TILES; tile++, in += 2 * TILE * pixel, to++) {
        uint32_t *corner = to, *edge = to + FIRST_EDGE * step, *centre = to + CENTRE * step;
        const int8_t *from = in;
        for (size_t k = 0; k < pixel / 4; k++, from += 4) {
            transform(from, row, pixel, 0, corner, CORNER * step, edge, EDGE * step, centre);
            corner += CORNER * TILES;
            edge += EDGE * TILES;
            centre += TILES;
            transform(from, row, pixel, 1, corner, CORNER * step, edge, EDGE * step, centre);
            corner += CORNER * TILES;
            edge += EDGE * TILES;
            centre += TILES;
        }
    }
}

/* The sums [9][2 tiles][4 channels] of a span. */
static void multiply(const uint32_t *inputs, const uint32_t *weights, uint32_t pairs,
                     int32_t *sums) {
    cg_dsp_mac(inputs, weights, CORNER * pairs, CORNERS, sums);
    inputs += FIRST_EDGE * pairs * TILES;
    weights += FIRST_EDGE * pairs * LANES;
    cg_dsp_mac(inputs, weights, EDGE * pairs, EDGES, sums + CORNERS * BLOCK);
    inputs += EDGES * EDGE * pairs * TILES;
    weights += EDGES * EDGE * pairs * LANES;
    cg_dsp_mac_rewind(inputs, weights, pairs, 1, sums + (CORNERS + EDGES) * BLOCK);
}

/* Outputs [2 rows][4 columns][4 channels] from the sums. */
static inline __attribute__((always_inline)) void
outputs(const int32_t *sums, const cg_dsp_channel *channels, const cg_conv2d_s8 *p, int8_t *out) {
    for (const cg_dsp_channel *const end = channels + LANES; channels != end; channels++) {
        const cg_dsp_channel c = *channels;
#define SUM(n) ((uint32_t)sums[tile * LANES + (n)*BLOCK])
#define OUTPUT(at, y)                                                                              \
    out[(at + tile * TILE) * LANES] =                                                              \
        p == NULL ? cg_dsp_requant((int32_t)(y), &c) : cg_dsp_requant_any((int32_t)(y), &c, p)
#define OUTPUTS(number)                                                                            \
    do {                                                                                           \
        enum { tile = number };                                                                    \
        const uint32_t centre = SUM(8) + (uint32_t)c.bias2;                                        \
        const uint32_t left = SUM(6) + centre, right = SUM(7) + centre, top = SUM(4);              \
        OUTPUT(0, SUM(0) + top + left);                                                            \
        OUTPUT(1, SUM(1) + top + right);                                                           \
        const uint32_t bottom = SUM(5);                                                            \
        OUTPUT(SPAN, SUM(2) + bottom + left);                                                      \
        OUTPUT(SPAN + 1, SUM(3) + bottom + right);                                                 \
    } while (0)
        OUTPUTS(0);
        OUTPUTS(1);
#undef OUTPUTS
#undef OUTPUT
#undef SUM
        sums++;
        out++;
    }
}

static __attribute__((noinline)) void outputs_fast(const int32_t *sums,
                                                   const cg_dsp_channel *channels, int8_t *out) {
    outputs(sums, channels, NULL, out);
}

static __attribute__((noinline)) void outputs_any(const int32_t *sums,
                                                  const cg_dsp_channel *channels,
                                                  const cg_conv2d_s8 *p, int8_t *out) {
    outputs(sums, channels, p, out);
}

/* Four channels of a span, of which `rows` and `columns` lie inside, to the output. */
static void store_span(const uint32_t *tile, int8_t *out, size_t row, size_t pixel, int rows,
                       int columns) {
    for (; rows > 0; rows--, tile += SPAN, out += row) {
        for (int i = 0; i < columns; i++) {
            cg_dsp_store(out + (size_t)i * pixel, tile[i]);
        }
    }
}

/* Of a span that lies inside: its loads side by side. */
static inline void store_whole_span(const uint32_t *tile, int8_t *out, size_t row, size_t pixel) {
    for (int r = 0; r < TILE; r++, tile += SPAN, out += row) {
        const uint32_t w0 = tile[0], w1 = tile[1], w2 = tile[2], w3 = tile[3];
        cg_dsp_store(out, w0);
        cg_dsp_store(out + pixel, w1);
        cg_dsp_store(out + 2 * pixel, w2);
        cg_dsp_store(out + 3 * pixel, w3);
    }
}

static cg_status refuse(const cg_conv2d_s8 *p) {
    const int right = p->kernel_height == 3 && p->kernel_width == 3 && p->stride == 2 &&
                      p->in_channels % 4 == 0 && p->in_channels != 0 && p->out_channels % 4 == 0;
    return right ? CG_OK : CG_ERR_PARAM;
}

cg_status cg_conv2d_s8__dsp_phases(const cg_conv2d_s8 *parameters, const int8_t *input,
                                   int8_t *output, void *scratch) {
    const cg_conv2d_s8 *const p = parameters;
    int fast;
    cg_status status = cg_dsp_check(p, input, output, scratch, &fast);
    if (status == CG_OK) {
        status = refuse(p);
    }
    if (status != CG_OK) {
        return status;
    }
    const size_t pixel = p->in_channels, row = p->in_width * pixel, to_pixel = p->out_channels;
    const uint32_t pairs = (uint32_t)pixel / 2;
    const cg_dsp_channel *const channels = p->packed;
    uint32_t *const inputs = scratch;
    uint32_t *const window = inputs + inputs_words(p);
    int32_t *const sums = (int32_t *)window; /* the window is used before */

    for (int y = 0; y < p->out_height; y += TILE) {
        const int rows = p->out_height - y < TILE ? p->out_height - y : TILE;
        for (int x = 0; x < p->out_width; x += SPAN) {
            const int top = 2 * y - p->pad_top, left = 2 * x - p->pad_left;
            const int columns = p->out_width - x < SPAN ? p->out_width - x : SPAN;
            if (top >= 0 && left >= 0 && top + WINDOW <= p->in_height &&
                left + WINDOW_SPAN <= p->in_width) {
                transform_span(input + (size_t)top * row + (size_t)left * pixel, row, pixel,
                               inputs);
            } else {
                copy_window(p, input, top, left, window);
                transform_span((const int8_t *)window, WINDOW_SPAN * pixel, pixel, inputs);
            }
            const uint32_t *weights = (const uint32_t *)(const void *)(channels + p->out_channels);
            int8_t *to = output + ((size_t)y * p->out_width + (size_t)x) * to_pixel;
            for (size_t o = 0; o < to_pixel; o += LANES, weights += PARTS * pairs * LANES) {
                uint32_t tile[TILE * SPAN];
                multiply(inputs, weights, pairs, sums);
                if (fast) {
                    outputs_fast(sums, channels + o, (int8_t *)tile);
                } else {
                    outputs_any(sums, channels + o, p, (int8_t *)tile);
                }
                if (rows == TILE && columns == SPAN) {
                    store_whole_span(tile, to + o, (size_t)p->out_width * to_pixel, to_pixel);
                } else {
                    store_span(tile, to + o, (size_t)p->out_width * to_pixel, to_pixel, rows,
                               columns);
                }
            }
        }
    }
    return CG_OK;
}

size_t cg_conv2d_s8__dsp_phases_scratch(const cg_conv2d_s8 *parameters) {
    const size_t window = (size_t)WINDOW * WINDOW_SPAN * parameters->in_channels / 4;
    const size_t sums = SUMS * BLOCK;
    return (inputs_words(parameters) + (window > sums ? window : sums)) * sizeof(uint32_t);
}

#endif
