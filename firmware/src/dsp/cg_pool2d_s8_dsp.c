/*
 * Maximum and mean of each window for DSP cores (SPEC.md 5.9): four maxima a register by SSUB8 and
 * SEL, or two sums. Channels that are no multiple of 4 are left to ref, as is a mean over a row of
 * more values than an int16 sum holds.
 */
#include "cg_dsp.h"

#if defined(__ARM_FEATURE_DSP)

enum { MAX_SUMMANDS = 256 }; /* as many int8 values always fit an int16 sum */

/* The part of a window that lies on the map; distances in bytes. */
typedef struct {
    const int8_t *first; /* channel 0 of its first pixel */
    int rows, columns;
    size_t pixel, row;
} window;

static window clip(const cg_pool2d_s8 *p, const int8_t *input, int y, int x) {
    const int top = y * p->stride - p->pad_top, left = x * p->stride - p->pad_left;
    int first_row, end_row, first_column, end_column;
    cg_clip(top, p->size_height, p->in_height, &first_row, &end_row);
    cg_clip(left, p->size_width, p->in_width, &first_column, &end_column);
    const size_t pixel = p->channels, row = p->in_width * pixel;
    const int8_t *const first =
        input + (size_t)(top + first_row) * row + (size_t)(left + first_column) * pixel;
    const window w = {first, end_row - first_row, end_column - first_column, pixel, row};
    return w;
}

static void clamp_all(int8_t *out, size_t count, int low, int high) {
    for (size_t i = 0; i < count; i++) {
        out[i] = cg_clamp(out[i], low, high);
    }
}

/* The maxima of four pixels, and of what is there already unless they are the first. */
static __attribute__((noinline)) void four_pixels(const int8_t *const *pixels, size_t channels,
                                                  int first, int8_t *out) {
    const int8_t *p0 = pixels[0], *p1 = pixels[1], *p2 = pixels[2], *p3 = pixels[3];
    for (const int8_t *const end = out + channels; out != end; out += 4) {
        const uint32_t w0 = cg_dsp_load(p0), w1 = cg_dsp_load(p1), w2 = cg_dsp_load(p2),
                       w3 = cg_dsp_load(p3);
        uint32_t peak = cg_dsp_larger(cg_dsp_larger(w0, w1), cg_dsp_larger(w2, w3));
        if (!first) {
            peak = cg_dsp_larger(peak, cg_dsp_load(out));
        }
        cg_dsp_store(out, peak);
        p0 += 4;
        p1 += 4;
        p2 += 4;
        p3 += 4;
    }
}

/* All channels of a window. */
static void maxima(const window *w, int8_t *out) {
    const int8_t *pixels[4];
    const int8_t *in = w->first;
    int first = 1, count = 0;
    for (int y = 0; y < w->rows; y++, in += w->row) {
        const int8_t *at = in;
        for (int x = 0; x < w->columns; x++, at += w->pixel) {
            pixels[count++] = at;
            if (count == 4) {
                four_pixels(pixels, w->pixel, first, out);
                first = count = 0;
            }
        }
    }
    if (count != 0) {
        for (; count < 4; count++) {
            pixels[count] = pixels[0]; /* changes no maximum */
        }
        four_pixels(pixels, w->pixel, first, out);
    }
}

cg_status cg_max_pool2d_s8__dsp(const cg_max_pool2d_s8 *parameters, const int8_t *input,
                                int8_t *output, void *scratch) {
    const cg_max_pool2d_s8 *const p = parameters;
    const cg_status status = cg_check_pool2d(p, input, output);
    if (status != CG_OK || p->channels % 4 != 0) {
        return status != CG_OK ? status : cg_max_pool2d_s8__ref(p, input, output, scratch);
    }
    int8_t *out = output;
    for (int y = 0; y < p->out_height; y++) {
        for (int x = 0; x < p->out_width; x++, out += p->channels) {
            const window w = clip(p, input, y, x);
            maxima(&w, out);
        }
    }
    if (p->clamp_min != INT8_MIN || p->clamp_max != INT8_MAX) {
        clamp_all(output, (size_t)(out - output), p->clamp_min, p->clamp_max);
    }
    return CG_OK;
}

size_t cg_max_pool2d_s8__dsp_scratch(const cg_max_pool2d_s8 *parameters) {
    (void)parameters;
    return 0;
}

/* Sums of four channels of a window from `first` on: of as many rows as an int16 sum holds, then of
 * all. */
static inline __attribute__((always_inline)) void sum_up(const window *w, const int8_t *first,
                                                         int32_t *sums) {
    const size_t pixel = w->pixel, row = w->row;
    const int columns = w->columns, most = MAX_SUMMANDS / columns;
    sums[0] = sums[1] = sums[2] = sums[3] = 0;
    for (int rows = w->rows; rows != 0;) {
        uint32_t even = 0, odd = 0; /* channels 0 and 2, 1 and 3 */
        int count = rows < most ? rows : most;
        for (rows -= count; count != 0; count--, first += row) {
            const int8_t *at = first;
            int left = columns;
            for (; left >= 2; left -= 2, at += 2 * pixel) {
                const uint32_t w0 = cg_dsp_load(at), w1 = cg_dsp_load(at + pixel);
                even = cg_dsp_widen_even(cg_dsp_widen_even(even, w0), w1);
                odd = cg_dsp_widen_odd(cg_dsp_widen_odd(odd, w0), w1);
            }
            if (left != 0) {
                const uint32_t four = cg_dsp_load(at);
                even = cg_dsp_widen_even(even, four);
                odd = cg_dsp_widen_odd(odd, four);
            }
        }
        sums[0] += (int16_t)even;
        sums[1] += (int16_t)odd;
        sums[2] += (int32_t)even >> 16;
        sums[3] += (int32_t)odd >> 16;
    }
}

/* All channels of a window. */
static __attribute__((noinline)) void means(const window *w, int low, int high, int8_t *out) {
    const int32_t count = w->rows * w->columns;
    for (size_t c = 0; c < w->pixel; c += 4) {
        int32_t sums[4];
        sum_up(w, w->first + c, sums);
        for (int i = 0; i < 4; i++) {
            *out++ = cg_clamp(cg_rounded_mean(sums[i], count), low, high);
        }
    }
}

cg_status cg_avg_pool2d_s8__dsp(const cg_avg_pool2d_s8 *parameters, const int8_t *input,
                                int8_t *output, void *scratch) {
    const cg_avg_pool2d_s8 *const p = parameters;
    const cg_status status = cg_check_pool2d(p, input, output);
    if (status != CG_OK || p->channels % 4 != 0 || p->size_width > MAX_SUMMANDS) {
        return status != CG_OK ? status : cg_avg_pool2d_s8__ref(p, input, output, scratch);
    }
    for (int y = 0; y < p->out_height; y++) {
        for (int x = 0; x < p->out_width; x++, output += p->channels) {
            const window w = clip(p, input, y, x);
            means(&w, p->clamp_min, p->clamp_max, output);
        }
    }
    return CG_OK;
}

size_t cg_avg_pool2d_s8__dsp_scratch(const cg_avg_pool2d_s8 *parameters) {
    (void)parameters;
    return 0;
}

#endif
