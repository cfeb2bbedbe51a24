/*
 * Addition in place of tensors with scales of their own, for DSP cores (SPEC.md 5.10).
 *
 * Both inputs are magnified by 2^20 and rescaled. The one with the larger scale is halved exactly
 * (multiplier 2^30, shift 0), which is a shift to the left by 19; what the other becomes is looked
 * up in a table of its 256 values, made first. If both scales are equal, the other is halved too:
 * the same as one bit more and a shift of one, which rounds nothing either. What is not of that
 * form is left to ref.
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

enum { VALUES = 256 };

/* Entry v is what the byte v of `other` adds to twice the sum, less the halved input's zero point;
 * `left`, 21 or 22, makes a value and its zero point the doubled number that cg_dsp_high takes. */
static void make_table(const scaling *s, int32_t zero_point, int32_t half_zero_point, int left,
                       int32_t *table) {
    for (int32_t v = 0; v < VALUES; v++) {
        const int32_t doubled = ((int8_t)v - zero_point) * (1 << left);
        const int32_t scaled = cg_dsp_high(doubled, s->multiplier, s->offset) >> s->right;
        table[v] = 2 * scaled - half_zero_point * (1 << 20);
    }
}

/* One element. */
static inline int32_t add_one(int8_t half, int8_t other, const int32_t *table, const scaling *out) {
    const int32_t sum = table[(uint8_t)other] + half * (1 << 20);
    return cg_dsp_high(sum, out->multiplier, out->offset) >> out->right;
}

#if defined(CG_DSP_ASM)

/* clang-format off */

/* t: what `other` adds, and an input. */
#define ADD(t, half) "add " t ", " t ", " half ", lsl #20\n\t"
#define REQUANTISE(t, half)                                                                        \
    "add " half ", %[offset], " t ", asr #31\n\t"                                                 \
    "smmlar " t ", " t ", %[multiplier], " half "\n\t"                                            \
    "asr " t ", " t ", %[right]\n\t"                                                              \
    "ssat " t ", #8, " t "\n\t"

/* `count` elements, a multiple of 4 and not 0. Assembly, because GCC does not keep the loads
 * together. */
static __attribute__((noinline)) void add_fours(const int8_t *half, const int8_t *other,
                                                int8_t *stream, size_t count, const int32_t *table,
                                                const scaling *out) {
    const int8_t *const end = stream + count;
    __asm volatile(
        "1:\n\t"
        "ldrb r4, [%[other], #1]\n\tldrb r5, [%[other], #2]\n\tldrb r6, [%[other], #3]\n\t"
        "ldrb r3, [%[other]], #4\n\t"
        "ldr r4, [%[table], r4, lsl #2]\n\tldr r5, [%[table], r5, lsl #2]\n\t"
        "ldr r6, [%[table], r6, lsl #2]\n\tldr r3, [%[table], r3, lsl #2]\n\t"
        "ldrsb r7, [%[half], #1]\n\tldrsb r12, [%[half], #2]\n\t"
        ADD("r4", "r7") ADD("r5", "r12")
        "ldrsb r7, [%[half], #3]\n\tldrsb r12, [%[half]], #4\n\t"
        ADD("r6", "r7") ADD("r3", "r12")
        REQUANTISE("r4", "r7") REQUANTISE("r5", "r7") REQUANTISE("r6", "r7") REQUANTISE("r3", "r7")
        "strb r4, [%[stream], #1]\n\tstrb r5, [%[stream], #2]\n\t"
        "strb r6, [%[stream], #3]\n\tstrb r3, [%[stream]], #4\n\t"
        "cmp %[stream], %[end]\n\t"
        "bne 1b"
        : [half] "+r"(half), [other] "+r"(other), [stream] "+r"(stream)
        : [table] "r"(table), [offset] "r"(out->offset), [multiplier] "r"(out->multiplier),
          [right] "r"(out->right), [end] "r"(end)
        : "r3", "r4", "r5", "r6", "r7", "r12", "cc", "memory");
}

/* clang-format on */
#endif

static void add(const int8_t *half, const int8_t *other, int8_t *stream, const int32_t *table,
                const scaling *out, const cg_add_s8 *p) {
    size_t i = 0;
#if defined(CG_DSP_ASM)
    if (p->clamp_min == INT8_MIN && p->clamp_max == INT8_MAX && p->size >= 4) {
        i = p->size / 4 * 4;
        add_fours(half, other, stream, i, table, out);
    }
#endif
    for (; i < p->size; i++) {
        const int8_t y = cg_dsp_saturate(add_one(half[i], other[i], table, out));
        stream[i] = cg_clamp(y, p->clamp_min, p->clamp_max);
    }
}

cg_status cg_add_s8__dsp(const cg_add_s8 *parameters, const int8_t *input, int8_t *output,
                         void *scratch) {
    const cg_add_s8 *const p = parameters;
    if (p == NULL || input == NULL || output == NULL || scratch == NULL) {
        return CG_ERR_NULL;
    }
    const int in_half = is_half(p->in_multiplier, p->in_shift);
    const int stream_half = is_half(p->stream_multiplier, p->stream_shift);
    const int both = in_half && stream_half;
    const int legal = p->clamp_min <= p->clamp_max && cg_is_int8(p->in_zero_point) &&
                      cg_is_int8(p->stream_zero_point) && cg_is_int8(p->out_zero_point);
    const int right = both ? 1 : in_half ? -p->stream_shift : -p->in_shift;
    scaling in, out;
    if (legal && (in_half || stream_half) &&
        make_scaling(p->out_multiplier, -p->out_shift, p->out_zero_point, &out) &&
        make_scaling(in_half ? p->stream_multiplier : p->in_multiplier, right, 0, &in)) {
        int32_t *const table = scratch;
        if (in_half) {
            make_table(&in, p->stream_zero_point, p->in_zero_point, both ? 22 : 21, table);
            add(input, output, output, table, &out, p);
        } else {
            make_table(&in, p->in_zero_point, p->stream_zero_point, 21, table);
            add(output, input, output, table, &out, p);
        }
        return CG_OK;
    }
    return cg_add_s8__ref(parameters, input, output, NULL);
}

size_t cg_add_s8__dsp_scratch(const cg_add_s8 *parameters) {
    (void)parameters;
    return VALUES * sizeof(int32_t);
}

#endif
