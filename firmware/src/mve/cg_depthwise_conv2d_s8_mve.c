/*
 * Depthwise convolution for cores with Helium (SPEC.md 5.8): four channels at a time, each with one
 * input. Channels that are no multiple of four, and a channel multiplier, are left to ref.
 */
#include "../ref/cg_check.h"
#include "cg_mve.h"
#include "cgate.h"

#if defined(__ARM_FEATURE_MVE)

enum { LANES = 4 };

/* The part of the kernel that lies on the map, and steps in bytes. */
typedef struct {
    const int8_t *weights;
    int rows, columns;
    size_t channels, in_row, kernel_row;
} taps;

/* Adds the products of one window. */
static inline int32x4_t multiply(const taps *t, const int8_t *in, int32x4_t sums) {
    const int8_t *weights = t->weights;
    const size_t step = t->channels;
    for (int y = t->rows; y > 0; y--, in += t->in_row, weights += t->kernel_row) {
        const int8_t *from = in, *weight = weights;
        for (int x = t->columns; x > 0; x--, from += step, weight += step) {
            sums = vaddq_s32(sums, vmulq_s32(vldrbq_s32(from), vldrbq_s32(weight)));
        }
    }
    return sums;
}

/* The same for 3x3, which are most. Assembly, because GCC computes all addresses first, and keeps
 * them on the stack. */
static inline int32x4_t multiply_3x3(const taps *t, const int8_t *in, int32x4_t sums) {
    const int8_t *weights = t->weights;
    const size_t step = t->channels, down = t->in_row - 2 * step;
    const size_t kernel_down = t->kernel_row - 2 * step;
#define TAP(in_step, weights_step)                                                                 \
    "vldrb.s32 q0, [%[in]]\n\t"                                                                    \
    "vldrb.s32 q1, [%[weights]]\n\t"                                                               \
    "add %[in], %[in], %[" in_step "]\n\t"                                                         \
    "vmul.i32 q0, q0, q1\n\t"                                                                      \
    "add %[weights], %[weights], %[" weights_step "]\n\t"                                          \
    "vadd.i32 %q[sums], %q[sums], q0\n\t"
#define ROW TAP("step", "step") TAP("step", "step") TAP("down", "kernel_down")
    __asm volatile(ROW ROW ROW
                   : [sums] "+w"(sums), [in] "+r"(in), [weights] "+r"(weights)
                   : [step] "r"(step), [down] "r"(down), [kernel_down] "r"(kernel_down)
                   : "q0", "q1", "memory");
#undef ROW
#undef TAP
    return sums;
}

/* Takes off what the input zero point adds. */
static int32x4_t subtract_zero(const taps *t, int32_t zero, int32x4_t sums) {
    for (int y = 0; y < t->rows; y++) {
        const int8_t *weights = t->weights + (size_t)y * t->kernel_row;
        for (int x = 0; x < t->columns; x++, weights += t->channels) {
            sums = vmlaq_n_s32(sums, vldrbq_s32(weights), -zero);
        }
    }
    return sums;
}

/* Four channels, from `o` on, of `pixels` outputs whose windows lie on the map alike. */
static __attribute__((noinline)) void compute_run(const cg_depthwise_conv2d_s8 *p, const taps *t,
                                                  size_t o, const int8_t *in, int pixels,
                                                  int8_t *out) {
    const int32x4_t multiplier = vldrwq_s32(p->multiplier + o), shift = vldrbq_s32(p->shift + o);
    const int32x4_t none = vdupq_n_s32(0);
    const int32x4_t left = vmaxq_s32(shift, none), right = vminq_s32(shift, none);
    const int32x4_t low = vdupq_n_s32(p->clamp_min), high = vdupq_n_s32(p->clamp_max);
    const int32x4_t start = subtract_zero(t, p->in_zero_point, vldrwq_s32(p->bias + o));
    const size_t step = (size_t)p->stride * t->channels;
    const int three = t->rows == 3 && t->columns == 3;
    for (; pixels > 0; pixels--, in += step, out += t->channels) {
        const int32x4_t sums = three ? multiply_3x3(t, in, start) : multiply(t, in, start);
        int32x4_t y = cg_mve_requant(sums, multiplier, left, right);
        y = vqaddq_n_s32(y, p->out_zero_point);
        vstrbq_s32(out, vminq_s32(vmaxq_s32(y, low), high));
    }
}

cg_status cg_depthwise_conv2d_s8__mve(const cg_depthwise_conv2d_s8 *parameters, const int8_t *input,
                                      int8_t *output, void *scratch) {
    const cg_depthwise_conv2d_s8 *const p = parameters;
    const cg_status status = cg_check_conv2d(p, input, output);
    if (status != CG_OK) {
        return status;
    }
    const size_t channels = p->in_channels;
    if (channels != p->out_channels || channels % LANES != 0) {
        return cg_depthwise_conv2d_s8__ref(parameters, input, output, scratch);
    }
    taps t = {.channels = channels,
              .in_row = (size_t)p->in_width * channels,
              .kernel_row = (size_t)p->kernel_width * channels};
    for (int y = 0; y < p->out_height; y++, output += (size_t)p->out_width * channels) {
        const int top = y * p->stride - p->pad_top;
        int ky_first, ky_end, pixels;
        cg_clip(top, p->kernel_height, p->in_height, &ky_first, &ky_end);
        t.rows = ky_end - ky_first;
        for (int x = 0, left = -p->pad_left; x < p->out_width;
             x += pixels, left += pixels * p->stride) {
            int kx_first, kx_end;
            cg_clip(left, p->kernel_width, p->in_width, &kx_first, &kx_end);
            t.columns = kx_end - kx_first;
            pixels = 1;
            if (t.columns == p->kernel_width) { /* so are those to the right, up to the edge */
                const int alike = (p->in_width - p->kernel_width - left) / p->stride + 1;
                pixels = alike < p->out_width - x ? alike : p->out_width - x;
            }
            const int8_t *in = input;
            t.weights = p->weights;
            if (t.rows > 0 && t.columns > 0) {
                in += (size_t)(top + ky_first) * t.in_row + (size_t)(left + kx_first) * channels;
                t.weights += (size_t)ky_first * t.kernel_row + (size_t)kx_first * channels;
            }
            for (size_t o = 0; o < channels; o += LANES, in += LANES, t.weights += LANES) {
                compute_run(p, &t, o, in, pixels, output + (size_t)x * channels + o);
            }
        }
    }
    return CG_OK;
}

size_t cg_depthwise_conv2d_s8__mve_scratch(const cg_depthwise_conv2d_s8 *parameters) {
    return cg_depthwise_conv2d_s8__ref_scratch(parameters);
}

#endif
