/*
 * Prototypes of all kernels, from the list in cg_kernels.inc.
 *
 * cg_<op>__<variant>(parameters, input, output, scratch) computes `output` from `input`.
 * `scratch` has cg_<op>__<variant>_scratch(parameters) bytes, aligned to CG_ARENA_ALIGN; NULL if
 * that is 0. Input, output and scratch must not overlap, except that residual_add and add
 * add their input to `output` in place. Kernels return CG_ERR_PARAM, having written nothing, if
 * they cannot do what the parameters ask.
 */
#ifndef CG_KERNELS_H
#define CG_KERNELS_H

#define CG_IF_any(...) __VA_ARGS__
#if defined(__ARM_FEATURE_DSP)
#define CG_IF_dsp(...) __VA_ARGS__
#else
#define CG_IF_dsp(...)
#endif
#if defined(__ARM_FEATURE_MVE)
#define CG_IF_mve(...) __VA_ARGS__
#else
#define CG_IF_mve(...)
#endif
/* Arm's CMSIS-NN beside the library, for comparison (src/cmsis_nn/). */
#if defined(CG_CMSIS_NN)
#define CG_IF_cmsis_nn(...) __VA_ARGS__
#else
#define CG_IF_cmsis_nn(...)
#endif

#define CG_KERNEL(op, variant, needs)                                                              \
    cg_status cg_##op##__##variant(const cg_##op *parameters, const int8_t *input, int8_t *output, \
                                   void *scratch);                                                 \
    size_t cg_##op##__##variant##_scratch(const cg_##op *parameters);
#include "cg_kernels.inc"
#undef CG_KERNEL

#endif
