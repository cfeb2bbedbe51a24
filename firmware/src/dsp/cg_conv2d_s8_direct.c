/*
 * Convolution for DSP cores: any kernel, stride, padding and number of channels.
 *
 * Four output pixels at a time: the inputs that each needs are widened to int16 into a column, the
 * four columns interleaved word by word; then cg_dsp_mac multiplies them with two output channels
 * at a time. The columns hold x - zero point. Of each row of the kernel a column holds the whole
 * words of four inputs; behind those of all rows come the inputs that are left over.
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

static inline uint32_t *widen_word(uint32_t four, uint32_t minus_zero, uint32_t *column) {
    column[0] = cg_dsp_widen_even(minus_zero, four);
    column[PIXELS] = cg_dsp_widen_odd(minus_zero, four);
    return column + 2 * PIXELS;
}

/* Widens `count` words into a column; returns where it goes on. Assembly, because GCC does not keep
 * the loads together. */
static inline uint32_t *widen(const int8_t *in, size_t count, uint32_t minus_zero,
                              uint32_t *column) {
#define LOAD(word, at) "ldr %[" word "], [%[in], #" #at " * 4]\n\t"
#define WIDEN(word, at)                                                                            \
    "sxtab16 %[even], %[zero], %[" word "]\n\t"                                                    \
    "str %[even], [%[column], #" #at " * 32]\n\t"                                                  \
    "sxtab16 %[" word "], %[zero], %[" word "], ror #8\n\t"                                        \
    "str %[" word "], [%[column], #" #at " * 32 + 16]\n\t"
    uint32_t w0, w1, w2, w3, even;
    for (; count >= 4; count -= 4, in += 16, column += 8 * PIXELS) {
        __asm volatile(
            LOAD("w0", 0) LOAD("w1", 1) LOAD("w2", 2) LOAD("w3", 3) WIDEN("w0", 0) WIDEN("w1", 1)
                WIDEN("w2", 2) WIDEN("w3", 3)
            : [w0] "=&r"(w0), [w1] "=&r"(w1), [w2] "=&r"(w2), [w3] "=&r"(w3), [even] "=&r"(even)
            : [in] "r"(in), [column] "r"(column), [zero] "r"(minus_zero)
            : "memory");
    }
    if (count >= 2) {
        __asm volatile(LOAD("w0", 0) LOAD("w1", 1) WIDEN("w0", 0) WIDEN("w1", 1)
                       : [w0] "=&r"(w0), [w1] "=&r"(w1), [even] "=&r"(even)
                       : [in] "r"(in), [column] "r"(column), [zero] "r"(minus_zero)
                       : "memory");
        count -= 2;
        in += 8;
        column += 4 * PIXELS;
    }
#undef WIDEN
#undef LOAD
    return count == 0 ? column : widen_word(cg_dsp_load(in), minus_zero, column);
}

/* What no whole word took: `left` bytes, 1 to 3, of each of the `rows`. */
static inline void widen_left(const int8_t *in, size_t left, size_t row, int rows,
                              uint32_t minus_zero, uint32_t *column) {
    uint32_t four = 0;
    unsigned bits = 0;
    for (; rows > 0; rows--, in += row) {
        for (size_t i = 0; i < left; i++) {
            four |= (uint32_t)(uint8_t)in[i] << bits;
            bits += 8;
            if (bits == 32) {
                column = widen_word(four, minus_zero, column);
                four = 0;
                bits = 0;
            }
        }
    }
    if (bits != 0) {
        widen_word(four, minus_zero, column);
    }
}

/* Copies, or with a step of 0 fills, `count` bytes. The C library's memcpy may go by bytes. */
static int8_t *copy(const int8_t *from, size_t step, size_t count, int8_t *to) {
    for (; count >= 4; count -= 4, from += 4 * step, to += 4) {
        cg_dsp_store(to, cg_dsp_load(from));
    }
    for (; count != 0; count--, from += step, to++) {
        *to = *from;
    }
    return to;
}

/* The inputs of the window at top, left, which is not wholly inside, with padding. */
static void copy_window(const cg_conv2d_s8 *p, const int8_t *input, int top, int left, int8_t *to) {
    const size_t channels = p->in_channels, run = (size_t)p->kernel_width * channels;
    int8_t zeros[4];
    memset(zeros, p->in_zero_point, sizeof zeros);
    const int first = left < 0 ? -left : 0;
    const int end = left + p->kernel_width < p->in_width ? p->kernel_width : p->in_width - left;
    for (int y = top; y < top + p->kernel_height; y++) {
        if (y < 0 || y >= p->in_height || first >= end) {
            to = copy(zeros, 0, run, to);
            continue;
        }
        const int8_t *const in =
            input + ((size_t)y * p->in_width + (size_t)(left + first)) * channels;
        to = copy(zeros, 0, (size_t)first * channels, to);
        to = copy(in, 1, (size_t)(end - first) * channels, to);
        to = copy(zeros, 0, (size_t)(p->kernel_width - end) * channels, to);
    }
}

/* The columns of `count` output pixels from y, x on. */
static __attribute__((noinline)) void fill_columns(const cg_conv2d_s8 *p, const int8_t *input,
                                                   int y, int x, int count, uint32_t *column,
                                                   int8_t *window) {
    const uint32_t minus_zero = cg_dsp_pair(-p->in_zero_point);
    const size_t run = (size_t)p->kernel_width * p->in_channels;
    const size_t in_row = (size_t)p->in_width * p->in_channels;
    const size_t words = run / 4, left = run % 4;
    const int rows = p->kernel_height;
    for (; count > 0; count--, column++) {
        const int in_y = y * p->stride - p->pad_top, in_x = x * p->stride - p->pad_left;
        const int8_t *in = window;
        size_t row = run;
        if (in_y >= 0 && in_x >= 0 && in_y + rows <= p->in_height &&
            in_x + p->kernel_width <= p->in_width) {
            row = in_row;
            in = input + (size_t)in_y * row + (size_t)in_x * p->in_channels;
        } else {
            copy_window(p, input, in_y, in_x, window);
        }
        uint32_t *to = column;
        const int8_t *from = in;
        for (int ky = 0; ky < rows; ky++, from += row) {
            to = widen(from, words, minus_zero, to);
        }
        if (left != 0) {
            widen_left(in + words * 4, left, row, rows, minus_zero, to);
        }
        if (++x == p->out_width) {
            x = 0;
            y++;
        }
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
    int8_t *const window = (int8_t *)scratch + size * 2 * PIXELS;
    const uint32_t pixels = (uint32_t)p->out_height * p->out_width;
    int y = 0, x = 0;

    for (uint32_t n = 0; n < pixels; n += PIXELS) {
        const int valid = pixels - n < PIXELS ? (int)(pixels - n) : PIXELS;
        /* Columns beyond `valid` keep what was there; their sums are not looked at. */
        fill_columns(p, input, y, x, valid, columns, window);
        for (x += valid; x >= p->out_width; x -= p->out_width) {
            y++;
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
    return column_size(parameters) * (2 * PIXELS + 1);
}

#endif
