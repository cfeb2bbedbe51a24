/*
 * cgate runtime: what generated model code and applications share.
 *
 * No malloc, no stdio, no mutable globals: the caller owns all memory, and every call is reentrant
 * as long as arenas differ. The arithmetic is defined in SPEC.md, section 5.
 */
#ifndef CGATE_H
#define CGATE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Generated code states the version it was written for and refuses to compile with another. */
#define CG_ABI_VERSION 1

/* Required alignment of the arena, in bytes. */
#define CG_ARENA_ALIGN 16

typedef enum {
    CG_OK = 0,        /* done */
    CG_ERR_NULL = 1,  /* a pointer that is needed is NULL */
    CG_ERR_ALIGN = 2, /* the arena is not aligned to CG_ARENA_ALIGN */
    CG_ERR_PARAM = 3, /* a kernel cannot do what its parameters ask */
} cg_status;

/* What to do with a gate. An exit is a gate on all that follows it: open goes on, shut leaves. */
enum {
    CG_GATE_LEARNED = 0, /* as the gate decides */
    CG_GATE_OPEN = 1,    /* run the body whatever the gate says */
    CG_GATE_SHUT = 2,    /* skip the body whatever the gate says */
};

/* Optional observation and control of one inference; all fields may be NULL. */
typedef struct {
    /* Called after each unit that ran, with its index in the plan and its output. A gate's output
     * is its int8 logit, an exit's are its int8 logits. */
    void (*unit_done)(void *context, uint32_t unit, const int8_t *output, size_t size);
    void *context;
    /* Per gate, in plan order: a CG_GATE_* value. NULL: all as learned. */
    const uint8_t *force;
    /* Per gate, written: 1 if the gate itself said open, else 0, whatever `force` says. A gate
     * behind an exit that was left is not reached, and its entry stays as it was. */
    uint8_t *decisions;
} cg_hooks;

/* A network, as generated code describes it. */
typedef struct {
    uint32_t abi; /* CG_ABI_VERSION */
    const char *name;
    uint8_t plan_sha256[32];
    uint32_t input_size;  /* bytes of the int8 input, NHWC */
    uint32_t output_size; /* bytes of the int8 logits, one per class */
    uint32_t arena_size;  /* bytes of scratch memory for one inference */
    uint16_t units;
    uint16_t gates;
    /* One inference. `hooks` may be NULL. The input is not written to. */
    cg_status (*run)(const int8_t *input, int8_t *output, void *arena, const cg_hooks *hooks);
} cg_model;

/* Convolution with a square or rectangular kernel (SPEC.md 5.2). All sizes are at least 1. */
typedef struct {
    uint16_t in_height, in_width, in_channels;
    uint16_t out_height, out_width, out_channels;
    uint8_t kernel_height, kernel_width;
    uint8_t stride;
    uint8_t pad_top, pad_left; /* rows and columns of padding before the input */
    int16_t in_zero_point, out_zero_point;
    int8_t clamp_min, clamp_max;
    const int8_t *weights;     /* [out_channels][kernel_height][kernel_width][in_channels] */
    const int32_t *bias;       /* [out_channels] */
    const int32_t *multiplier; /* [out_channels] */
    const int8_t *shift;       /* [out_channels], -31..30 */
    /* What a kernel other than ref reads instead of the four above, as the exporter made it for
     * that kernel; aligned to 4 bytes. NULL for ref, which reads the four above. */
    const void *packed;
} cg_conv2d_s8;

/* Depthwise convolution (SPEC.md 5.8): out_channels is a multiple of in_channels, and `weights` is
 * [kernel_height][kernel_width][out_channels]. */
typedef cg_conv2d_s8 cg_depthwise_conv2d_s8;

/* Maximum or mean of each window (SPEC.md 5.9); windows are cut at the map's edge. */
typedef struct {
    uint16_t in_height, in_width, channels;
    uint16_t out_height, out_width;
    uint16_t size_height, size_width;
    uint8_t stride;
    uint8_t pad_top, pad_left; /* rows and columns of padding before the input */
    int8_t clamp_min, clamp_max;
} cg_pool2d_s8;
typedef cg_pool2d_s8 cg_max_pool2d_s8;
typedef cg_pool2d_s8 cg_avg_pool2d_s8;

/* Mean over height and width (SPEC.md 5.3). */
typedef struct {
    uint16_t height, width, channels;
    int16_t in_zero_point, out_zero_point;
    int32_t multiplier;
    int8_t shift;
} cg_mean_s8;

/* Mean and maximum over height and width, side by side (SPEC.md 5.7). */
typedef struct {
    uint16_t height, width, channels; /* of the input; the output has twice as many channels */
    int16_t zero_point;               /* of input and output */
    int32_t multiplier;               /* of the mean */
    int8_t shift;
} cg_mean_max_s8;

/* Option A shortcut: every stride-th pixel, requantised, new channels zero (SPEC.md 5.5). */
typedef struct {
    uint16_t in_height, in_width, in_channels;
    uint16_t out_channels;
    uint16_t channels_before; /* new channels before the copied ones */
    uint8_t stride;
    int16_t in_zero_point, out_zero_point;
    int32_t multiplier;
    int8_t shift;
} cg_shortcut_pad_s8;

/* Residual addition in place (SPEC.md 5.4). */
typedef struct {
    uint32_t size; /* elements */
} cg_residual_add_s8;

/* Addition in place of tensors with scales of their own (SPEC.md 5.10); `stream` is what the output
 * holds before. */
typedef struct {
    uint32_t size; /* elements */
    int16_t in_zero_point, stream_zero_point, out_zero_point;
    int8_t clamp_min, clamp_max;
    int32_t in_multiplier, stream_multiplier, out_multiplier;
    int8_t in_shift, stream_shift, out_shift; /* -31..0 */
} cg_add_s8;

/* Softmax of each row (SPEC.md 5.12): the output's scale is 1/256, its zero point -128. */
typedef struct {
    uint32_t rows;
    uint16_t depth;              /* values in a row, 1..511 */
    const int32_t *exponentials; /* [256]: exp(-d * beta * scale) * 2^31, saturated */
} cg_softmax_s8;

#include "cg_kernels.h"

#ifdef __cplusplus
}
#endif

#endif
