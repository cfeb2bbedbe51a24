/*
 * Convolution for cores with Helium: any kernel, stride, padding and number of channels.
 *
 * int8 as it is: the inputs of up to eight output pixels are copied, a column each; VMLADAVA
 * multiplies 16 of them with 16 weights. A block is two output channels by two pixels: eight
 * instructions for 64 products. Padding is the zero point, whose share is in the biases. Columns
 * and weights are filled up to whole vectors; weights with 0, so that what a column holds there
 * does not matter.
 *
 * Packed weights: channel [out_channels, filled up to a multiple of 4], then weights
 * int8 [channels / 4][2][vectors][2][16]: of four channels the even ones, then the odd ones.
 */
#include "../ref/cg_check.h"
#include "cg_mve.h"
#include "cgate.h"

#if defined(__ARM_FEATURE_MVE)

enum { PIXELS = 8, LANES = 16, GROUP = 4 };

/* One output channel. */
typedef struct {
    int32_t bias; /* with the kernel's share of the input zero point */
    int32_t multiplier;
    int32_t left;  /* the shift where it is to the left, else 0 */
    int32_t right; /* minus the shift */
} channel;

static uint32_t vectors_of(const cg_conv2d_s8 *p) {
    return ((uint32_t)p->kernel_height * p->kernel_width * p->in_channels + LANES - 1) / LANES;
}

static cg_status check(const cg_conv2d_s8 *p, const int8_t *input, const int8_t *output,
                       const void *scratch) {
    if (p == NULL || input == NULL || output == NULL || scratch == NULL || p->packed == NULL) {
        return CG_ERR_NULL;
    }
    if (p->stride == 0 || p->clamp_min > p->clamp_max || !cg_is_int8(p->in_zero_point) ||
        !cg_is_int8(p->out_zero_point)) {
        return CG_ERR_PARAM;
    }
    const channel *c = p->packed;
    for (int o = 0; o < p->out_channels; o++, c++) {
        if (!cg_is_shift(-c->right)) {
            return CG_ERR_PARAM;
        }
    }
    return CG_OK;
}

/* The inputs of the window at top, left. */
static inline void fill_column(const cg_conv2d_s8 *p, const int8_t *input, int top, int left,
                               int8_t *to) {
    const int32_t channels = p->in_channels, run = p->kernel_width * channels;
    const int32_t in_row = p->in_width * channels;
    const int rows = p->kernel_height;
    if (top >= 0 && left >= 0 && top + rows <= p->in_height &&
        left + p->kernel_width <= p->in_width) {
        const int8_t *in = input + top * in_row + left * channels;
        for (int i = rows; i > 0; i--, in += in_row) {
            to = cg_mve_copy(in, run, to);
        }
        return;
    }
    const int8_t zero = (int8_t)p->in_zero_point;
    int first, end;
    cg_clip(left, p->kernel_width, p->in_width, &first, &end);
    for (int y = top; y < top + rows; y++) {
        if (y < 0 || y >= p->in_height || first >= end) {
            to = cg_mve_fill(zero, run, to);
            continue;
        }
        to = cg_mve_fill(zero, first * channels, to);
        to = cg_mve_copy(input + y * in_row + (left + first) * channels, (end - first) * channels,
                         to);
        to = cg_mve_fill(zero, (p->kernel_width - end) * channels, to);
    }
}

/*
 * The sums of four channels and two pixels. Assembly, because each sum takes an even register, and
 * because a vector's lanes are written from registers in pairs: 0 and 2, 1 and 3.
 */
static inline void multiply(const int8_t *weights, const int8_t *column, uint32_t vectors,
                            int32x4_t *y0, int32x4_t *y1) {
    const int8_t *first, *second;
    int32_t s0, s1, s2, s3;
#define TWO_CHANNELS(high, low)                                                                    \
    "mov %[s0], #0\n\t"                                                                            \
    "mov %[s1], #0\n\t"                                                                            \
    "mov %[s2], #0\n\t"                                                                            \
    "mov %[s3], #0\n\t"                                                                            \
    "mov %[first], %[column]\n\t"                                                                  \
    "add %[second], %[column], %[vectors], lsl #4\n\t"                                             \
    "dls lr, %[vectors]\n"                                                                         \
    "1:\n\t"                                                                                       \
    "vldrb.8 q0, [%[weights]], #32\n\t"                                                            \
    "vldrb.8 q2, [%[first]], #16\n\t"                                                              \
    "vmladava.s8 %[s0], q0, q2\n\t"                                                                \
    "vldrb.8 q1, [%[weights], #-16]\n\t"                                                           \
    "vmladava.s8 %[s1], q1, q2\n\t"                                                                \
    "vldrb.8 q3, [%[second]], #16\n\t"                                                             \
    "vmladava.s8 %[s2], q0, q3\n\t"                                                                \
    "vmladava.s8 %[s3], q1, q3\n\t"                                                                \
    "le lr, 1b\n\t"                                                                                \
    "vmov %q[y0][" high "], %q[y0][" low "], %[s0], %[s1]\n\t"                                     \
    "vmov %q[y1][" high "], %q[y1][" low "], %[s2], %[s3]\n\t"
    __asm volatile(TWO_CHANNELS("2", "0") TWO_CHANNELS("3", "1")
                   : [s0] "=&Te"(s0), [s1] "=&Te"(s1), [s2] "=&Te"(s2), [s3] "=&Te"(s3),
                     [weights] "+&r"(weights), [first] "=&r"(first), [second] "=&r"(second),
                     [y0] "=&w"(*y0), [y1] "=&w"(*y1)
                   : [column] "r"(column), [vectors] "r"(vectors)
                   : "q0", "q1", "q2", "q3", "lr", "memory");
#undef TWO_CHANNELS
}

/* Four channels of `valid` pixels; `count` of the channels are stored. */
static __attribute__((noinline)) void compute_group(const cg_conv2d_s8 *p, const channel *channels,
                                                    const int8_t *weights, const int8_t *column,
                                                    int valid, uint32_t count, int8_t *out) {
    const uint32_t vectors = vectors_of(p);
    const int32x4x4_t c = vld4q_s32(&channels->bias);
    const int32x4_t bias = c.val[0], multiplier = c.val[1], left = c.val[2];
    const int32x4_t right = vnegq_s32(vmaxq_s32(c.val[3], vdupq_n_s32(0)));
    const int32x4_t low = vdupq_n_s32(p->clamp_min), high = vdupq_n_s32(p->clamp_max);
    const int32_t zero = p->out_zero_point;
    const size_t outputs = p->out_channels;
    const mve_pred16_t stored = vctp32q(count);
    for (; valid > 0; valid -= 2, column += 2 * vectors * LANES) {
        int32x4_t y0, y1;
        multiply(weights, column, vectors, &y0, &y1);
        y0 = cg_mve_requant(vaddq_s32(y0, bias), multiplier, left, right);
        y0 = vminq_s32(vmaxq_s32(vqaddq_n_s32(y0, zero), low), high);
        vstrbq_p_s32(out, y0, stored);
        if (valid > 1) {
            out += outputs;
            y1 = cg_mve_requant(vaddq_s32(y1, bias), multiplier, left, right);
            y1 = vminq_s32(vmaxq_s32(vqaddq_n_s32(y1, zero), low), high);
            vstrbq_p_s32(out, y1, stored);
            out += outputs;
        }
    }
}

cg_status cg_conv2d_s8__mve(const cg_conv2d_s8 *parameters, const int8_t *input, int8_t *output,
                            void *scratch) {
    const cg_conv2d_s8 *const p = parameters;
    const cg_status status = check(p, input, output, scratch);
    if (status != CG_OK) {
        return status;
    }
    const uint32_t outputs = p->out_channels;
    const uint32_t vectors = vectors_of(p);
    const channel *const channels = p->packed;
    const int8_t *const weights =
        (const int8_t *)(channels + (outputs + GROUP - 1) / GROUP * GROUP);
    int8_t *const columns = scratch;
    const uint32_t pixels = (uint32_t)p->out_height * p->out_width;
    int top = -p->pad_top, left = -p->pad_left, x = 0;

    for (uint32_t n = 0; n < pixels; n += PIXELS) {
        const int valid = pixels - n < PIXELS ? (int)(pixels - n) : PIXELS;
        int8_t *column = columns;
        for (int i = valid; i > 0; i--, column += vectors * LANES) {
            fill_column(p, input, top, left, column);
            left += p->stride;
            if (++x == p->out_width) {
                x = 0;
                left = -p->pad_left;
                top += p->stride;
            }
        }
        const int8_t *weight = weights;
        for (uint32_t o = 0; o < outputs; o += GROUP, weight += GROUP * vectors * LANES) {
            compute_group(p, channels + o, weight, columns, valid, outputs - o, output + o);
        }
        output += (size_t)valid * outputs;
    }
    return CG_OK;
}

size_t cg_conv2d_s8__mve_scratch(const cg_conv2d_s8 *parameters) {
    return (size_t)vectors_of(parameters) * LANES * PIXELS;
}

#endif
