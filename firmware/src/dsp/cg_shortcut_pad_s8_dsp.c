/* Option A shortcut for DSP cores (SPEC.md 5.5): five instructions a requantisation, and words. */
#include "cg_dsp.h"

#if defined(__ARM_FEATURE_DSP)

static int8_t *fill(int8_t *out, size_t count, uint32_t four) {
    for (; count >= 4; count -= 4, out += 4) {
        cg_dsp_store(out, four);
    }
    for (; count != 0; count--, out++) {
        *out = (int8_t)four;
    }
    return out;
}

/* `left` is 1 where there is a shift to the right, which the sum is then prepared for; else the
 * shift to the left plus 1, and there is no second rounding. */
static inline uint32_t scale(int32_t x, const cg_dsp_channel *c, int left) {
    const int32_t doubled = (int32_t)((uint32_t)x << left) + c->bias2;
    return (uint8_t)(c->right != 0 ? cg_dsp_requant(doubled, c)
                                   : cg_dsp_saturate(cg_dsp_high(doubled, c->multiplier,
                                                                 c->offset - (doubled >> 31))));
}

static inline __attribute__((always_inline)) int8_t *
copy_words(const int8_t *in, int8_t *out, size_t count, const cg_dsp_channel *c, int left) {
    for (; count >= 4; count -= 4, in += 4, out += 4) {
        const uint32_t low = scale(in[0], c, left) | scale(in[1], c, left) << 8;
        const uint32_t high = scale(in[2], c, left) | scale(in[3], c, left) << 8;
        cg_dsp_store(out, low | high << 16);
    }
    for (; count != 0; count--) {
        *out++ = (int8_t)scale(*in++, c, left);
    }
    return out;
}

/* Where cg_dsp_requant is right, or nothing is rounded twice. */
static int8_t *copy_fast(const int8_t *in, int8_t *out, size_t count, const cg_dsp_channel *channel,
                         int left) {
    cg_dsp_channel c = *channel;
    if (c.right != 0) {
        return copy_words(in, out, count, &c, 1);
    }
    c.right = 0;
    return copy_words(in, out, count, &c, left);
}

static int8_t *copy_any(const int8_t *in, int8_t *out, size_t count, const cg_shortcut_pad_s8 *p) {
    for (; count != 0; count--) {
        const int32_t scaled = cg_requant(*in++ - p->in_zero_point, p->multiplier, p->shift);
        *out++ = cg_offset_clamp(scaled, p->out_zero_point, INT8_MIN, INT8_MAX);
    }
    return out;
}

cg_status cg_shortcut_pad_s8__dsp(const cg_shortcut_pad_s8 *parameters, const int8_t *input,
                                  int8_t *output, void *scratch) {
    (void)scratch;
    const cg_shortcut_pad_s8 *const p = parameters;
    if (p == NULL || input == NULL || output == NULL) {
        return CG_ERR_NULL;
    }
    if (p->stride == 0 || p->channels_before + p->in_channels > p->out_channels ||
        !cg_is_int8(p->in_zero_point) || !cg_is_int8(p->out_zero_point) || !cg_is_shift(p->shift)) {
        return CG_ERR_PARAM;
    }
    const size_t before = p->channels_before, channels = p->in_channels;
    const size_t after = p->out_channels - before - channels;
    const uint32_t zero = (uint8_t)p->out_zero_point * 0x01010101u;
    const int fast = p->multiplier >= 0 && -22 <= p->shift && p->shift <= 20;
    const int right = fast && p->shift < 0 ? -p->shift : 0;
    const int left = 1 + (fast && p->shift > 0 ? p->shift : 0);
    const int32_t half = right == 0 ? 0 : 1 << (right - 1);
    const cg_dsp_channel c = {-p->in_zero_point * (1 << left), p->multiplier,
                              half + p->out_zero_point * (1 << right), right};
    for (int y = 0; y < p->in_height; y += p->stride) {
        const int8_t *in = input + (size_t)y * p->in_width * channels;
        for (int x = 0; x < p->in_width; x += p->stride, in += p->stride * channels) {
            output = fill(output, before, zero);
            output = fast ? copy_fast(in, output, channels, &c, left)
                          : copy_any(in, output, channels, p);
            output = fill(output, after, zero);
        }
    }
    return CG_OK;
}

size_t cg_shortcut_pad_s8__dsp_scratch(const cg_shortcut_pad_s8 *parameters) {
    (void)parameters;
    return 0;
}

#endif
