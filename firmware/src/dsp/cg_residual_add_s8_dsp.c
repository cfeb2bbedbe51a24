/* Residual addition for DSP cores: four saturating additions an instruction (SPEC.md 5.4). */
#include "cg_dsp.h"

#if defined(__ARM_FEATURE_DSP)

static uint32_t add(const int8_t *x, const int8_t *y) {
    return (uint32_t)__qadd8((int8x4_t)cg_dsp_load(x), (int8x4_t)cg_dsp_load(y));
}

cg_status cg_residual_add_s8__dsp(const cg_residual_add_s8 *parameters, const int8_t *input,
                                  int8_t *output, void *scratch) {
    (void)scratch;
    if (parameters == NULL || input == NULL || output == NULL) {
        return CG_ERR_NULL;
    }
    uint32_t left = parameters->size;
    for (; left >= 16; left -= 16, input += 16, output += 16) {
        cg_dsp_store(output, add(output, input));
        cg_dsp_store(output + 4, add(output + 4, input + 4));
        cg_dsp_store(output + 8, add(output + 8, input + 8));
        cg_dsp_store(output + 12, add(output + 12, input + 12));
    }
    for (; left >= 4; left -= 4, input += 4, output += 4) {
        cg_dsp_store(output, add(output, input));
    }
    for (; left != 0; left--, input++, output++) {
        *output = cg_dsp_saturate(*output + *input);
    }
    return CG_OK;
}

size_t cg_residual_add_s8__dsp_scratch(const cg_residual_add_s8 *parameters) {
    (void)parameters;
    return 0;
}

#endif
