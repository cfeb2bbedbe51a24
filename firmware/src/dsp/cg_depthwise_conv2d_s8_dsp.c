/*
 * Depthwise convolution for DSP cores (SPEC.md 5.8): four channels at a time, each with one input.
 * What is not of that form (a channel multiplier, channels that are no multiple of four, unusual
 * shifts or biases) is left to ref.
 */
#include "cg_dsp.h"

#if defined(__ARM_FEATURE_DSP)

enum { LANES = 4, RUN = 8, BIAS_LIMIT = 1 << 29, TAPS_LIMIT = 1 << 14 };

/* What the four channels from `o` on need. */
static void prepare(const cg_depthwise_conv2d_s8 *p, size_t o, cg_dsp_channel *channels) {
    for (size_t i = 0; i < LANES; i++) {
        const int right = -p->shift[o + i];
        channels[i].bias2 = 2 * p->bias[o + i];
        channels[i].multiplier = p->multiplier[o + i];
        channels[i].offset = (1 << (right - 1)) + p->out_zero_point * (1 << right);
        channels[i].right = right;
    }
}

/* Twice a sum stays below 2^31: 2^29 for the bias, 255 * 128 * TAPS_LIMIT for the products. */
static int is_fast(const cg_depthwise_conv2d_s8 *p) {
    if (p->in_channels != p->out_channels || p->in_channels % LANES != 0 ||
        p->kernel_height * p->kernel_width > TAPS_LIMIT) {
        return 0;
    }
    for (int o = 0; o < p->out_channels; o++) {
        if (p->shift[o] > -1 || p->shift[o] < -22 || p->multiplier[o] < 0 ||
            p->bias[o] <= -BIAS_LIMIT || p->bias[o] >= BIAS_LIMIT) {
            return 0;
        }
    }
    return 1;
}

/* The part of the kernel that lies on the map, and where, for a run of output pixels. */
typedef struct {
    const int8_t *in, *weights;
    int pixels, rows, columns;
    size_t pixel, in_row, kernel_row, channels; /* steps in bytes */
    uint32_t minus_zero;
} window;

/* Sums [pixels][LANES]. A function of its own, as is the next: inlined, GCC keeps most variables on
 * the stack. Assembly: bytes 0 and 2, then 1 and 3, of inputs and weights as halves, multiplied;
 * GCC does not keep the loads together. */
static __attribute__((noinline)) void add_windows(const window *at, int32_t *sums) {
    const size_t channels = at->channels;
    const uint32_t minus_zero = at->minus_zero;
    const size_t down = at->in_row - 3 * channels;
    const int8_t *first = at->in;
    for (const int32_t *const end = sums + at->pixels * LANES; sums != end;
         sums += LANES, first += at->pixel) {
        const int8_t *in = first, *weights = at->weights;
        int32_t s0 = 0, s1 = 0, s2 = 0, s3 = 0;
        uint32_t x, w, even, odd;
#define TAP                                                                                        \
    "ldr %[x], [%[in]]\n\t"                                                                        \
    "ldr %[w], [%[weights]]\n\t"                                                                   \
    "add %[in], %[in], %[step]\n\t"                                                                \
    "add %[weights], %[weights], %[step]\n\t"                                                      \
    "sxtab16 %[even], %[zero], %[x]\n\t"                                                           \
    "sxtab16 %[x], %[zero], %[x], ror #8\n\t"                                                      \
    "sxtb16 %[odd], %[w], ror #8\n\t"                                                              \
    "sxtb16 %[w], %[w]\n\t"                                                                        \
    "smlabb %[s0], %[even], %[w], %[s0]\n\t"                                                       \
    "smlatt %[s2], %[even], %[w], %[s2]\n\t"                                                       \
    "smlabb %[s1], %[x], %[odd], %[s1]\n\t"                                                        \
    "smlatt %[s3], %[x], %[odd], %[s3]\n\t"
#define DOWN "add %[in], %[in], %[down]\n\t"
#define OPERANDS                                                                                   \
    : [x] "=&r"(x), [w] "=&r"(w), [even] "=&r"(even), [odd] "=&r"(odd), [in] "+r"(in),             \
      [weights] "+r"(weights), [s0] "+r"(s0), [s1] "+r"(s1), [s2] "+r"(s2), [s3] "+r"(s3)          \
    : [step] "r"(channels), [down] "r"(down), [zero] "r"(minus_zero)                                                 \
    : "memory"
        if (at->rows == 3 && at->columns == 3 && at->kernel_row == 3 * channels) {
            __asm volatile(TAP TAP TAP DOWN TAP TAP TAP DOWN TAP TAP TAP OPERANDS);
        } else {
            for (int row = 0; row < at->rows; row++) {
                in = first + (size_t)row * at->in_row;
                weights = at->weights + (size_t)row * at->kernel_row;
                for (int column = 0; column < at->columns; column++) {
                    __asm volatile(TAP OPERANDS);
                }
            }
        }
#undef OPERANDS
#undef DOWN
#undef TAP
        sums[0] = s0;
        sums[1] = s1;
        sums[2] = s2;
        sums[3] = s3;
    }
}

static __attribute__((noinline)) void requantise(const int32_t *sums, const window *at,
                                                 const cg_dsp_channel *channel, int low, int high,
                                                 int8_t *out) {
    const size_t step = at->channels, count = (size_t)at->pixels;
    for (int lane = 0; lane < LANES; lane++, sums++, channel++, out++) {
        const cg_dsp_channel c = *channel;
        const int32_t *sum = sums;
        int8_t *to = out;
        if (low == INT8_MIN && high == INT8_MAX) {
            for (const int8_t *const end = to + count * step; to != end; to += step, sum += LANES) {
                *to = cg_dsp_requant(2 * *sum + c.bias2, &c);
            }
        } else {
            for (const int8_t *const end = to + count * step; to != end; to += step, sum += LANES) {
                *to = cg_clamp(cg_dsp_requant(2 * *sum + c.bias2, &c), low, high);
            }
        }
    }
}

cg_status cg_depthwise_conv2d_s8__dsp(const cg_depthwise_conv2d_s8 *parameters, const int8_t *input,
                                      int8_t *output, void *scratch) {
    const cg_depthwise_conv2d_s8 *const p = parameters;
    const cg_status status = cg_check_conv2d(p, input, output);
    if (status != CG_OK) {
        return status;
    }
    if (!is_fast(p)) {
        return cg_depthwise_conv2d_s8__ref(parameters, input, output, scratch);
    }
    const size_t channels = p->in_channels;
    window at = {.pixel = (size_t)p->stride * channels,
                 .in_row = (size_t)p->in_width * channels,
                 .kernel_row = (size_t)p->kernel_width * channels,
                 .channels = channels,
                 .minus_zero = cg_dsp_pair(-p->in_zero_point)};
    for (size_t o = 0; o < channels; o += LANES) {
        cg_dsp_channel channel[LANES];
        prepare(p, o, channel);
        int8_t *out = output + o;
        for (int y = 0; y < p->out_height; y++) {
            const int top = y * p->stride - p->pad_top;
            int ky_first, ky_end;
            cg_clip(top, p->kernel_height, p->in_height, &ky_first, &ky_end);
            at.rows = ky_end - ky_first;
            const int8_t *const in_row = input + (size_t)(top + ky_first) * at.in_row + o;
            const int8_t *const kernel_row = p->weights + (size_t)ky_first * at.kernel_row + o;
            int left = -p->pad_left;
            for (int x = 0; x < p->out_width; x += at.pixels, left += at.pixels * p->stride) {
                int kx_first, kx_end;
                cg_clip(left, p->kernel_width, p->in_width, &kx_first, &kx_end);
                at.columns = kx_end - kx_first;
                at.in = in_row + (size_t)(left + kx_first) * channels;
                at.weights = kernel_row + (size_t)kx_first * channels;
                at.pixels = 1;
                if (at.columns == p->kernel_width) { /* so are those to the right, up to the edge */
                    const int more = (p->in_width - p->kernel_width - left) / p->stride;
                    const int most = p->out_width - x < RUN ? p->out_width - x : RUN;
                    at.pixels = more + 1 < most ? more + 1 : most;
                }
                int32_t sums[RUN * LANES];
                add_windows(&at, sums);
                requantise(sums, &at, channel, p->clamp_min, p->clamp_max, out);
                out += (size_t)at.pixels * channels;
            }
        }
    }
    return CG_OK;
}

size_t cg_depthwise_conv2d_s8__dsp_scratch(const cg_depthwise_conv2d_s8 *parameters) {
    return cg_depthwise_conv2d_s8__ref_scratch(parameters);
}

#endif
