/*
 * Convolution for DSP cores: any kernel, stride, padding and number of channels.
 *
 * Four output pixels at a time: the inputs that each needs are widened to int16 into a column, the
 * four columns interleaved word by word; then cg_dsp_mac multiplies them with two output channels
 * at a time. The columns hold x - zero point, so padding is 0.
 *
 * Packed weights: cg_dsp_channel [out_channels], then words
 * [(out_channels + 1) / 2][columns / 2][2 output channels] of doubled weights.
 */
#include "cg_dsp.h"

#if defined(__ARM_FEATURE_DSP)

enum {
    PIXELS = 4,
    GROUP = 16, /* output channels between two requantisations: sums of 256 bytes on the stack */
};

/* Elements of a column: all taps, rounded up to a word of four bytes. */
static size_t column_size(const cg_conv2d_s8 *p) {
    return ((size_t)p->kernel_height * p->kernel_width * p->in_channels + 3) / 4 * 4;
}

static inline uint32_t *widen_four(const int8_t *in, uint32_t minus_zero, uint32_t *column) {
    const uint32_t four = cg_dsp_load(in);
    column[0] = cg_dsp_widen_even(minus_zero, four);
    column[PIXELS] = cg_dsp_widen_odd(minus_zero, four);
    return column + 2 * PIXELS;
}

/* Widens `count` bytes, a multiple of 4, into a column; returns where it goes on. */
static inline uint32_t *widen(const int8_t *in, size_t count, uint32_t minus_zero,
                              uint32_t *column) {
    for (; count >= 16; count -= 16, in += 16) {
        column = widen_four(in, minus_zero, column);
        column = widen_four(in + 4, minus_zero, column);
        column = widen_four(in + 8, minus_zero, column);
        column = widen_four(in + 12, minus_zero, column);
    }
    for (; count != 0; count -= 4, in += 4) {
        column = widen_four(in, minus_zero, column);
    }
    return column;
}

static uint32_t *zeros(size_t count, uint32_t *column) {
    for (; count != 0; count -= 4, column += 2 * PIXELS) {
        column[0] = 0;
        column[PIXELS] = 0;
    }
    return column;
}

static int8_t *copy(const int8_t *in, size_t count, int8_t *to) {
    for (const int8_t *const end = in + count; in != end; in++) {
        *to++ = *in;
    }
    return to;
}

static int8_t *fill(int8_t value, size_t count, int8_t *to) {
    for (; count != 0; count--) {
        *to++ = value;
    }
    return to;
}

/* The taps of one output pixel: for every kernel row, zeros before, inputs, zeros after. `taps` has
 * room for a column of bytes; it is used where runs are no multiples of four bytes. */
static __attribute__((noinline)) void fill_column(const cg_conv2d_s8 *p, const int8_t *input, int y,
                                                  int x, uint32_t *column, int8_t *taps) {
    const int top = y * p->stride - p->pad_top, left = x * p->stride - p->pad_left;
    const int width = p->in_width, kernel = p->kernel_width;
    int before = left < 0 ? -left : 0;
    int after = left + kernel > width ? left + kernel - width : 0;
    before = before > kernel ? kernel : before;
    after = after > kernel ? kernel : after;
    const int inside = kernel - before - after;
    const size_t channels = p->in_channels;
    const size_t row = channels * (size_t)kernel;
    const uint32_t minus_zero = cg_dsp_pair(-p->in_zero_point);
    const int words = channels % 4 == 0;
    int8_t *tap = taps;

    if (words && before + after == 0 && top >= 0 && top + p->kernel_height <= p->in_height) {
        const size_t in_row = (size_t)width * channels;
        const int8_t *in = input + (size_t)top * in_row + (size_t)left * channels;
        for (int ky = 0; ky < p->kernel_height; ky++, in += in_row) {
            column = widen(in, row, minus_zero, column);
        }
        return;
    }
    for (int ky = 0; ky < p->kernel_height; ky++) {
        const int in_y = top + ky;
        if (in_y < 0 || in_y >= p->in_height || inside <= 0) {
            if (words) {
                column = zeros(row, column);
            } else {
                tap = fill((int8_t)p->in_zero_point, row, tap);
            }
            continue;
        }
        const int8_t *in =
            input + ((size_t)in_y * (size_t)width + (size_t)(left + before)) * channels;
        if (words) {
            column = zeros((size_t)before * channels, column);
            column = widen(in, (size_t)inside * channels, minus_zero, column);
            column = zeros((size_t)after * channels, column);
        } else {
            tap = fill((int8_t)p->in_zero_point, (size_t)before * channels, tap);
            tap = copy(in, (size_t)inside * channels, tap);
            tap = fill((int8_t)p->in_zero_point, (size_t)after * channels, tap);
        }
    }
    if (!words) {
        const size_t size = column_size(p);
        fill((int8_t)p->in_zero_point, size - (size_t)(tap - taps), tap);
        widen(taps, size, minus_zero, column);
    }
}

/*
 * The sums [channel][PIXELS] of `count` channels to outputs. A function of its own, as is the next:
 * inlined, GCC keeps half of its variables on the stack.
 */
static __attribute__((noinline)) void requantise_fast(const cg_dsp_channel *channel, size_t count,
                                                      const int32_t *sums, size_t outputs,
                                                      int8_t *out) {
    for (const cg_dsp_channel *const end = channel + count; channel != end; channel++, out++) {
        const cg_dsp_channel c = *channel;
        int8_t *to = out;
        to[0] = cg_dsp_requant(sums[0] + c.bias2, &c);
        to += outputs;
        to[0] = cg_dsp_requant(sums[1] + c.bias2, &c);
        to[outputs] = cg_dsp_requant(sums[2] + c.bias2, &c);
        to[2 * outputs] = cg_dsp_requant(sums[3] + c.bias2, &c);
        sums += PIXELS;
    }
}

static __attribute__((noinline)) void requantise_any(const cg_conv2d_s8 *p,
                                                     const cg_dsp_channel *channel, size_t count,
                                                     const int32_t *sums, int valid, int8_t *out) {
    for (size_t o = 0; o < count; o++, channel++, sums += PIXELS, out++) {
        for (int i = 0; i < valid; i++) {
            out[(size_t)i * p->out_channels] =
                cg_dsp_requant_any(sums[i] + channel->bias2, channel, p);
        }
    }
}

cg_status cg_conv2d_s8__dsp_direct(const cg_conv2d_s8 *parameters, const int8_t *input,
                                   int8_t *output, void *scratch) {
    const cg_conv2d_s8 *const p = parameters;
    int fast;
    const cg_status status = cg_dsp_check(p, input, output, scratch, &fast);
    if (status != CG_OK) {
        return status;
    }
    const cg_dsp_channel *const channels = p->packed;
    const uint32_t *const weights = (const uint32_t *)(const void *)(channels + p->out_channels);
    const size_t size = column_size(p);
    const size_t outputs = p->out_channels;
    uint32_t *const columns = scratch;
    int8_t *const taps = (int8_t *)scratch + size * 2 * PIXELS;
    const uint32_t pixels = (uint32_t)p->out_height * p->out_width;
    int y = 0, x = 0;

    for (uint32_t n = 0; n < pixels; n += PIXELS) {
        const int valid = pixels - n < PIXELS ? (int)(pixels - n) : PIXELS;
        /* Columns beyond `valid` keep what was there; their sums are not looked at. */
        for (int i = 0; i < valid; i++) {
            fill_column(p, input, y, x, columns + i, taps);
            if (++x == p->out_width) {
                x = 0;
                y++;
            }
        }
        const uint32_t *weight = weights;
        for (size_t o = 0; o < outputs; o += GROUP, weight += GROUP / 2 * size) {
            const size_t count = outputs - o < GROUP ? outputs - o : GROUP;
            int32_t sums[GROUP * PIXELS];
            cg_dsp_mac_rewind(weight, columns, (uint32_t)(size / 2), (uint32_t)(count + 1) / 2,
                              sums);
            if (fast && valid == PIXELS) {
                requantise_fast(channels + o, count, sums, outputs, output + o);
            } else {
                requantise_any(p, channels + o, count, sums, valid, output + o);
            }
        }
        output += (size_t)valid * outputs;
    }
    return CG_OK;
}

size_t cg_conv2d_s8__dsp_direct_scratch(const cg_conv2d_s8 *parameters) {
    const size_t size = column_size(parameters);
    return size * 2 * PIXELS + (parameters->in_channels % 4 == 0 ? 0 : size);
}

#endif
