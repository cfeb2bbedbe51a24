/* Softmax over the channels, reference (SPEC.md, section 5.12). */
#include "cg_requant.h"
#include "cgate.h"

/* More channels could ask for a shift by more bits than there are. */
#define CG_MAX_DEPTH 511

/* a * b / 2^31, rounded. */
static int32_t product(int32_t a, int32_t b) {
    return cg_requant(a, b, 0);
}

/* a * 2^left, saturated. */
static int32_t shifted(int32_t a, unsigned left) {
    const int32_t limit = INT32_MAX >> left;
    if (a > limit) {
        return INT32_MAX;
    }
    return a < -limit - 1 ? INT32_MIN : (int32_t)((uint32_t)a << left);
}

/* 2^31 / (1 + x / 2^31), for x >= 0: Newton's division, with 29 fractional bits in between. */
static int32_t reciprocal(int32_t x) {
    const int32_t half = (int32_t)(((uint32_t)x + UINT32_C(0x80000000)) >> 1);
    int32_t y = 1515870810 + product(half, -1010580540); /* 48/17 - 32/17 * half */
    for (int i = 0; i < 3; i++) {
        y += shifted(product(y, (INT32_C(1) << 29) - product(half, y)), 2);
    }
    return shifted(y, 1);
}

static int8_t largest(const int8_t *values, size_t count) {
    int8_t best = INT8_MIN;
    for (size_t i = 0; i < count; i++) {
        best = values[i] > best ? values[i] : best;
    }
    return best;
}

cg_status cg_softmax_s8__ref(const cg_softmax_s8 *parameters, const int8_t *input, int8_t *output,
                             void *scratch) {
    (void)scratch;
    const cg_softmax_s8 *const p = parameters;
    if (p == NULL || input == NULL || output == NULL || p->exponentials == NULL) {
        return CG_ERR_NULL;
    }
    const size_t depth = p->depth;
    if (depth == 0 || depth > CG_MAX_DEPTH || p->exponentials[0] != INT32_MAX) {
        return CG_ERR_PARAM;
    }
    for (uint32_t row = 0; row < p->rows; row++, input += depth, output += depth) {
        const int8_t top = largest(input, depth);
        uint32_t sum = 0; /* 19 fractional bits; at least 1, which the largest value gives */
        for (size_t i = 0; i < depth; i++) {
            sum += ((uint32_t)p->exponentials[top - input[i]] + 2048) >> 12;
        }
        unsigned zeros = 4; /* the sum is below 512 */
        while (zeros < 12 && (sum << zeros) < UINT32_C(0x80000000)) {
            zeros++;
        }
        const int32_t mantissa = reciprocal((int32_t)((sum << zeros) & UINT32_C(0x7fffffff)));
        const unsigned right = 12 - zeros + 23;
        for (size_t i = 0; i < depth; i++) {
            const int32_t share = product(p->exponentials[top - input[i]], mantissa);
            const uint32_t rounded = ((uint32_t)share + (UINT32_C(1) << (right - 1))) >> right;
            output[i] = (int8_t)(rounded > 255 ? 127 : (int32_t)rounded - 128);
        }
    }
    return CG_OK;
}

size_t cg_softmax_s8__ref_scratch(const cg_softmax_s8 *parameters) {
    (void)parameters;
    return 0;
}
