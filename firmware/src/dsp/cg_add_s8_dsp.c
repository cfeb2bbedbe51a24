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

/* What does not change from one element to the next; zero points are shifted to the left as what
 * they are subtracted from: that of the halved input by 20, the other by `left`, 21 or 22. */
typedef struct {
    int32_t half_zero, other_zero;
    int left;
    scaling in, out;
} sum_of;

/* One element. Sums are doubled, as cg_dsp_high takes them. */
static inline int8_t add_one(int32_t half, int32_t other, int left, const sum_of *s) {
    const int32_t doubled = (int32_t)((uint32_t)other << left) - s->other_zero;
    const int32_t scaled = cg_dsp_high(doubled, s->in.multiplier, s->in.offset) >> s->in.right;
    const int32_t sum = (int32_t)((uint32_t)half << 20) - s->half_zero + scaled * 2;
    return cg_dsp_saturate(cg_dsp_high(sum, s->out.multiplier, s->out.offset) >> s->out.right);
}

/* Four at a time, so that their loads lie side by side. */
static inline __attribute__((always_inline)) void
add_fast(const int8_t *in, int8_t *stream, uint32_t size, int in_half, const sum_of *constants) {
    const sum_of s = *constants;
#define ADD(i)                                                                                     \
    stream[i] = in_half ? add_one(in[i], stream[i], 21, &s) : add_one(stream[i], in[i], 21, &s)
    for (const int8_t *const end = in + size / 4 * 4; in != end; in += 4, stream += 4) {
        ADD(0);
        ADD(1);
        ADD(2);
        ADD(3);
    }
    for (uint32_t i = 0; i < size % 4; i++) {
        ADD(i);
    }
#undef ADD
}

static void add(const int8_t *in, int8_t *stream, int in_half, const sum_of *s,
                const cg_add_s8 *p) {
    if (s->left == 21 && p->clamp_min == INT8_MIN && p->clamp_max == INT8_MAX) {
        if (in_half) {
            add_fast(in, stream, p->size, 1, s);
        } else {
            add_fast(in, stream, p->size, 0, s);
        }
        return;
    }
    for (uint32_t i = 0; i < p->size; i++) {
        const int32_t half = in_half ? in[i] : stream[i], other = in_half ? stream[i] : in[i];
        stream[i] = cg_clamp(add_one(half, other, s->left, s), p->clamp_min, p->clamp_max);
    }
}

cg_status cg_add_s8__dsp(const cg_add_s8 *parameters, const int8_t *input, int8_t *output,
                         void *scratch) {
    const cg_add_s8 *const p = parameters;
    if (p == NULL || input == NULL || output == NULL) {
        return CG_ERR_NULL;
    }
    const int in_half = is_half(p->in_multiplier, p->in_shift);
    const int stream_half = is_half(p->stream_multiplier, p->stream_shift);
    const int both = in_half && stream_half;
    const int32_t in_zero = p->in_zero_point, stream_zero = p->stream_zero_point;
    const int legal = p->clamp_min <= p->clamp_max && cg_is_int8(in_zero) &&
                      cg_is_int8(stream_zero) && cg_is_int8(p->out_zero_point);
    sum_of s;
    s.left = both ? 22 : 21;
    if (legal && (in_half || stream_half) &&
        make_scaling(p->out_multiplier, -p->out_shift, p->out_zero_point, &s.out) &&
        make_scaling(in_half ? p->stream_multiplier : p->in_multiplier,
                     both      ? 1
                     : in_half ? -p->stream_shift
                               : -p->in_shift,
                     0, &s.in)) {
        s.half_zero = (in_half ? in_zero : stream_zero) * (1 << 20);
        s.other_zero = (in_half ? stream_zero : in_zero) * (1 << s.left);
        add(input, output, in_half, &s, p);
        return CG_OK;
    }
    return cg_add_s8__ref(parameters, input, output, scratch);
}

size_t cg_add_s8__dsp_scratch(const cg_add_s8 *parameters) {
    return cg_add_s8__ref_scratch(parameters);
}

#endif
