/*
 * Addition in place of tensors with scales of their own, for DSP cores (SPEC.md 5.10).
 *
 * Both inputs are magnified by 2^20 and rescaled. The one with the larger scale is halved exactly
 * (multiplier 2^30, shift 0), which is a shift to the left by 19; the other goes through
 * cg_dsp_high. If both scales are equal, the other is halved too: the same as one bit more and a
 * shift of one, which rounds nothing either. What is not of that form is left to ref.
 */
#include "cg_dsp.h"

#if defined(__ARM_FEATURE_DSP)

/* multiplier, offset and right as cg_dsp_high wants them. */
typedef struct {
    int32_t multiplier, offset, right;
} scaling;

static int is_half(int32_t multiplier, int shift) {
    return multiplier == 1 << 30 && shift == 0;
}

static int make_scaling(int32_t multiplier, int right, int32_t zero_point, scaling *s) {
    if (multiplier < 0 || right < 1 || right > 22) {
        return 0;
    }
    s->multiplier = multiplier;
    s->offset = (1 << (right - 1)) + zero_point * (1 << right);
    s->right = right;
    return 1;
}

/* `other_zero` is shifted to the left as what it is subtracted from, by 21 or 22. */
static inline __attribute__((always_inline)) void
add_all(const int8_t *half, const int8_t *other, int8_t *output, uint32_t size, int32_t half_zero,
        int32_t other_zero, int left, const scaling *in, const scaling *out, int low, int high) {
    const scaling i = *in, o = *out;
    for (const int8_t *const end = half + size; half != end;) {
        const int32_t doubled = (int32_t)((uint32_t)*other++ << left) - other_zero;
        int32_t sum = cg_dsp_high(doubled, i.multiplier, i.offset) >> i.right;
        sum += (int32_t)((uint32_t)*half++ << 19) - half_zero;
        const int8_t y = cg_dsp_saturate(cg_dsp_high(2 * sum, o.multiplier, o.offset) >> o.right);
        *output++ = cg_clamp(y, low, high);
    }
}

static void add(const int8_t *half, const int8_t *other, int8_t *output, int32_t half_zero,
                int32_t other_zero, int left, const scaling *in, const scaling *out,
                const cg_add_s8 *p) {
    half_zero *= 1 << 19;
    other_zero *= 1 << left;
    if (left == 21 && p->clamp_min == INT8_MIN && p->clamp_max == INT8_MAX) {
        add_all(half, other, output, p->size, half_zero, other_zero, 21, in, out, INT8_MIN,
                INT8_MAX);
    } else {
        add_all(half, other, output, p->size, half_zero, other_zero, left, in, out, p->clamp_min,
                p->clamp_max);
    }
}

cg_status cg_add_s8__dsp(const cg_add_s8 *parameters, const int8_t *input, int8_t *output,
                         void *scratch) {
    const cg_add_s8 *const p = parameters;
    if (p == NULL || input == NULL || output == NULL) {
        return CG_ERR_NULL;
    }
    const int in_half = is_half(p->in_multiplier, p->in_shift);
    const int both = in_half && is_half(p->stream_multiplier, p->stream_shift);
    const int left = both ? 22 : 21;
    const int32_t in_zero = p->in_zero_point, stream_zero = p->stream_zero_point;
    scaling in, out;
    const int legal = p->clamp_min <= p->clamp_max && cg_is_int8(in_zero) &&
                      cg_is_int8(stream_zero) && cg_is_int8(p->out_zero_point) &&
                      make_scaling(p->out_multiplier, -p->out_shift, p->out_zero_point, &out);
    if (legal && in_half &&
        make_scaling(p->stream_multiplier, both ? 1 : -p->stream_shift, 0, &in)) {
        add(input, output, output, in_zero, stream_zero, left, &in, &out, p);
        return CG_OK;
    }
    if (legal && is_half(p->stream_multiplier, p->stream_shift) &&
        make_scaling(p->in_multiplier, -p->in_shift, 0, &in)) {
        add(output, input, output, stream_zero, in_zero, left, &in, &out, p);
        return CG_OK;
    }
    return cg_add_s8__ref(parameters, input, output, scratch);
}

size_t cg_add_s8__dsp_scratch(const cg_add_s8 *parameters) {
    return cg_add_s8__ref_scratch(parameters);
}

#endif
