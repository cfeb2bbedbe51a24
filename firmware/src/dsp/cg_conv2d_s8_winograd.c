/*
 * 3x3 convolution for DSP cores, stride 1, padding 1, by Winograd's F(4x4, 3x3); the mathematics
 * and the transforms are in cg_dsp_winograd.h.
 *
 * A strip is four output rows, a span two tiles side by side, a pass a number of spans one after
 * the other, across strips. Of each pass all spans are transformed; then, for four output channels
 * at a time, cg_dsp_mac multiplies each span, and the inverse transform and requantisation follow.
 *
 * Two kernels. dsp_winograd reads transformed weights from flash, eight times the size of int8,
 * and its passes have one span. dsp_winograd_int8 reads int8 weights and transforms them into
 * scratch memory once per pass, so its passes are long, and its scratch memory larger.
 *
 * Input channels count as a multiple of 4; where they are none, the rows of every strip are copied,
 * with zeros between the pixels.
 *
 * Packed weights: cg_dsp_channel [out_channels], then words
 * dsp_winograd: [out_channels / 4][36 positions][in_channels / 2][4 output channels],
 * dsp_winograd_int8: [out_channels][in_channels / 4][9 taps], of four bytes.
 */
#include "cg_dsp_winograd.h"

#if defined(__ARM_FEATURE_DSP)

/* The transformed inputs of a pass of dsp_winograd_int8 take no more than this, unless one span
 * does: a compromise of memory and of transforming weights again. */
enum { PASS_BYTES = 18432 };

/* Sizes in spans, and where the parts of the scratch memory begin, in words. */
typedef struct {
    size_t pairs;   /* of input channels */
    size_t across;  /* spans in a strip */
    size_t spans;   /* in all */
    size_t pass;    /* in a pass */
    size_t columns; /* of the strip: left padding, whole spans, right padding */
    size_t weights; /* transformed, [36][pairs][4] */
    size_t rows;    /* copied input rows of a strip, [6][in_width][2 * pairs] bytes */
    size_t inputs;  /* transformed, [pass][36][pairs][2] */
    size_t sums;    /* [36][8] */
    size_t end;
} layout;

static size_t larger(size_t a, size_t b) {
    return a > b ? a : b;
}

/* Inlined, so that a pass of one span leaves no loop over its spans. */
static inline __attribute__((always_inline)) layout lay_out(const cg_conv2d_s8 *p, int int8) {
    const size_t pairs = ((size_t)p->in_channels + 3) / 4 * 2;
    const size_t span = (size_t)CG_POSITIONS * pairs * CG_TILES;
    const size_t rows = (size_t)CG_WINDOW * p->in_width * pairs / 2;
    layout at;
    at.pairs = pairs;
    at.across = ((size_t)p->in_width + CG_SPAN - 1) / CG_SPAN;
    at.spans = at.across * (((size_t)p->in_height + CG_TILE - 1) / CG_TILE);
    at.columns = at.across * CG_SPAN + 2;
    const size_t strip = at.columns * pairs * CG_WINDOW;
    if (int8) {
        /* The strip is used before the weights, in the same place. Passes of equal length. */
        const size_t most = larger(PASS_BYTES / (span * 4), 1);
        const size_t passes = (at.spans + most - 1) / most;
        at.pass = (at.spans + passes - 1) / passes;
        at.weights = 0;
        at.rows = larger(strip, CG_POSITIONS * pairs * CG_LANES);
        at.inputs = at.rows + rows;
        at.sums = at.inputs + at.pass * span;
    } else {
        /* The rows are used before the transformed inputs, in the same place. */
        at.pass = 1;
        at.weights = 0;
        at.rows = strip;
        at.inputs = strip;
        at.sums = at.inputs + larger(span, rows);
    }
    at.end = at.sums + CG_POSITIONS * CG_BLOCK;
    return at;
}

/* A row whose pixels are no whole words, each filled up with zeros. */
static uint32_t *copy_pixels(const cg_conv2d_s8 *p, const int8_t *in, uint32_t *to) {
    for (size_t x = p->in_width; x != 0; x--) {
        for (size_t left = p->in_channels; left != 0;) {
            uint32_t word = (uint8_t)*in++;
            left--;
            for (unsigned bits = 8; left != 0 && bits != 32; bits += 8, left--) {
                word |= (uint32_t)(uint8_t)*in++ << bits;
            }
            *to++ = word;
        }
    }
    return to;
}

static uint32_t *copy_words(const int8_t *in, size_t words, uint32_t *to) {
    for (; words >= 4; words -= 4, in += 16, to += 4) {
        const uint32_t w0 = cg_dsp_load(in), w1 = cg_dsp_load(in + 4), w2 = cg_dsp_load(in + 8),
                       w3 = cg_dsp_load(in + 12);
        to[0] = w0;
        to[1] = w1;
        to[2] = w2;
        to[3] = w3;
    }
    for (; words != 0; words--, in += 4) {
        *to++ = cg_dsp_load(in);
    }
    return to;
}

/* The rows first .. first + 5 of the input, those outside filled with the zero point. */
static __attribute__((noinline)) void copy_rows(const cg_conv2d_s8 *p, const int8_t *input,
                                                int first, size_t pairs, uint32_t *to) {
    const size_t words = p->in_width * pairs / 2;
    const uint32_t zero = (uint8_t)p->in_zero_point * 0x01010101u;
    for (int y = first; y < first + CG_WINDOW; y++) {
        const int8_t *const in = input + (size_t)(y < 0 ? 0 : y) * p->in_width * p->in_channels;
        if (y < 0 || y >= p->in_height) {
            for (size_t left = words; left != 0; left--) {
                *to++ = zero;
            }
        } else if (p->in_channels % 4 == 0) {
            to = copy_words(in, words, to);
        } else {
            to = copy_pixels(p, in, to);
        }
    }
}

/* The columns of padding, left and right: of a constant column only component 1 of the vertical
 * transform is not zero. */
static void pad_columns(const cg_conv2d_s8 *p, size_t pairs, size_t columns, uint32_t *strip) {
    const uint32_t pad = cg_dsp_pair(-6 * (p->in_zero_point + 128));
    const size_t words = pairs * CG_WINDOW;
    for (size_t x = 0; x < columns; x = x == 0 ? (size_t)p->in_width + 1 : x + 1) {
        uint32_t *const to = strip + x * words;
        for (size_t i = 0; i < words; i++) {
            to[i] = i % CG_WINDOW == 1 ? pad : 0;
        }
    }
}

/* The vertical transform of the strip whose first output row is y. */
static void transform_strip(const cg_conv2d_s8 *p, const int8_t *input, int y, size_t pairs,
                            uint32_t *rows, uint32_t *strip) {
    const size_t row = p->in_width * pairs * 2;
    /* A number first: above the map there is nothing to point to. */
    const int8_t *from = (const int8_t *)((uintptr_t)input + (size_t)(y - 1) * row);
    if (y == 0 || y + CG_TILE + 1 > p->in_height || p->in_channels % 4 != 0) {
        copy_rows(p, input, y - 1, pairs, rows);
        from = (const int8_t *)rows;
    }
    cg_dsp_winograd_rows(from, row, strip + pairs * CG_WINDOW);
}

/* Four channels of a tile, of which `rows` and `columns` lie inside, to the output. */
static void store_tile(const uint32_t *tile, int8_t *out, size_t row, size_t pixel, int rows,
                       int columns) {
    for (; rows > 0; rows--, tile += CG_TILE, out += row) {
        int8_t *to = out;
        for (int x = 0; x < columns && x < CG_TILE; x++, to += pixel) {
            cg_dsp_store(to, tile[x]);
        }
    }
}

/* Of a tile that lies inside. Assembly, because GCC does not keep the loads together. */
static inline void store_whole_tile(const uint32_t *tile, int8_t *out, size_t row, size_t pixel) {
#define STORE_ROW                                                                                  \
    "ldm %[tile]!, {r2-r5}\n\t"                                                                    \
    "str r2, [%[out]]\n\tadd %[out], %[out], %[pixel]\n\t"                                         \
    "str r3, [%[out]]\n\tadd %[out], %[out], %[pixel]\n\t"                                         \
    "str r4, [%[out]]\n\tadd %[out], %[out], %[pixel]\n\t"                                         \
    "str r5, [%[out]]\n\tadd %[out], %[out], %[down]\n\t"
    __asm volatile(STORE_ROW STORE_ROW STORE_ROW STORE_ROW
                   : [tile] "+r"(tile), [out] "+r"(out)
                   : [pixel] "r"(pixel), [down] "r"(row - 3 * pixel)
                   : "r2", "r3", "r4", "r5", "memory");
#undef STORE_ROW
}

static inline __attribute__((always_inline)) cg_status
convolve(const cg_conv2d_s8 *p, const int8_t *input, int8_t *output, void *scratch, int int8) {
    int fast;
    const cg_status status = cg_dsp_check(p, input, output, scratch, &fast);
    if (status != CG_OK) {
        return status;
    }
    if (p->kernel_height != 3 || p->kernel_width != 3 || p->stride != 1 || p->pad_top != 1 ||
        p->pad_left != 1 || p->in_height != p->out_height || p->in_width != p->out_width ||
        p->in_channels == 0 || p->out_channels % 4 != 0) {
        return CG_ERR_PARAM;
    }
    const layout at = lay_out(p, int8);
    const int height = p->in_height, width = p->in_width;
    const size_t pairs = at.pairs, pixel = p->out_channels;
    const size_t span = (size_t)CG_POSITIONS * pairs * CG_TILES, row = (size_t)width * pixel;
    uint32_t *const strip = scratch;
    uint32_t *const inputs = strip + at.inputs;
    uint32_t *const sums = strip + at.sums;
    const cg_dsp_channel *const channels = p->packed;
    const uint32_t *const packed = (const uint32_t *)(const void *)(channels + p->out_channels);
    const size_t packed_step = pairs * (int8 ? 18 : CG_POSITIONS * CG_LANES);
    uint32_t tile[CG_TILE * CG_TILE];

    int y = 0, x = 0, next_y = 0, next_x = 0; /* of the pass, and of what follows */
    if (!int8) {
        pad_columns(p, pairs, at.columns, strip);
    }
    for (size_t first = 0; first < at.spans; first += at.pass, y = next_y, x = next_x) {
        const size_t count = at.spans - first < at.pass ? at.spans - first : at.pass;
        if (int8) {
            pad_columns(p, pairs, at.columns, strip);
        }
        for (size_t i = 0; i < count; i++) {
            if (next_x == 0 || (int8 && i == 0)) {
                transform_strip(p, input, next_y, pairs, strip + at.rows, strip);
            }
            cg_dsp_winograd_columns(strip + (size_t)next_x * pairs * CG_WINDOW, pairs,
                                    inputs + i * span);
            next_x += CG_SPAN;
            if (next_x >= width) {
                next_x = 0;
                next_y += CG_TILE;
            }
        }
        const uint32_t *weights = packed;
        for (size_t o = 0; o < pixel; o += CG_LANES, weights += packed_step) {
            const uint32_t *factors = weights;
            if (int8) {
                cg_dsp_winograd_weights(weights, pairs, strip + at.weights);
                factors = strip + at.weights;
            }
            int at_y = y, at_x = x;
            for (size_t i = 0; i < count; i++) {
                cg_dsp_mac(inputs + i * span, factors, (uint32_t)pairs, CG_POSITIONS,
                           (int32_t *)sums);
                const int rows = height - at_y < CG_TILE ? height - at_y : CG_TILE;
                for (int t = 0; t < CG_TILES && at_x < width; t++, at_x += CG_TILE) {
                    cg_dsp_winograd_outputs(sums + t * CG_LANES, channels + o, int8 ? 1 : 3,
                                            fast ? NULL : p, tile);
                    int8_t *const out = output + (size_t)at_y * row + (size_t)at_x * pixel + o;
                    if (rows == CG_TILE && width - at_x >= CG_TILE) {
                        store_whole_tile(tile, out, row, pixel);
                    } else {
                        store_tile(tile, out, row, pixel, rows, width - at_x);
                    }
                }
                if (at_x >= width) {
                    at_x = 0;
                    at_y += CG_TILE;
                }
            }
        }
    }
    return CG_OK;
}

cg_status cg_conv2d_s8__dsp_winograd(const cg_conv2d_s8 *parameters, const int8_t *input,
                                     int8_t *output, void *scratch) {
    return convolve(parameters, input, output, scratch, 0);
}

size_t cg_conv2d_s8__dsp_winograd_scratch(const cg_conv2d_s8 *parameters) {
    return lay_out(parameters, 0).end * sizeof(uint32_t);
}

cg_status cg_conv2d_s8__dsp_winograd_int8(const cg_conv2d_s8 *parameters, const int8_t *input,
                                          int8_t *output, void *scratch) {
    return convolve(parameters, input, output, scratch, 1);
}

size_t cg_conv2d_s8__dsp_winograd_int8_scratch(const cg_conv2d_s8 *parameters) {
    return lay_out(parameters, 1).end * sizeof(uint32_t);
}

#endif
