/*
 * Adapters to Arm's CMSIS-NN, compiled only where CG_CMSIS_NN is defined and the library's headers
 * are found: for measuring beside it, in one program.
 *
 * CMSIS-NN reads shifts as int32; they are widened into the scratch memory at each call, two
 * instructions per output channel.
 */
#include "cgate.h"

#if defined(CG_CMSIS_NN)

#include "../ref/cg_check.h"
#include "arm_nnfunctions.h"

typedef struct {
    cmsis_nn_dims input, filter, bias, output;
} dims;

static dims dims_of(const cg_conv2d_s8 *p, int filters, int taps) {
    return (dims){
        .input = {.n = 1, .h = p->in_height, .w = p->in_width, .c = p->in_channels},
        .filter = {.n = filters, .h = p->kernel_height, .w = p->kernel_width, .c = taps},
        .bias = {.n = 1, .h = 1, .w = 1, .c = p->out_channels},
        .output = {.n = 1, .h = p->out_height, .w = p->out_width, .c = p->out_channels},
    };
}

static cmsis_nn_conv_params conv_of(const cg_conv2d_s8 *p) {
    return (cmsis_nn_conv_params){
        .input_offset = -p->in_zero_point,
        .output_offset = p->out_zero_point,
        .stride = {.w = p->stride, .h = p->stride},
        .padding = {.w = p->pad_left, .h = p->pad_top},
        .dilation = {.w = 1, .h = 1},
        .activation = {.min = p->clamp_min, .max = p->clamp_max},
    };
}

static cmsis_nn_dw_conv_params depthwise_of(const cg_conv2d_s8 *p) {
    const cmsis_nn_conv_params c = conv_of(p);
    return (cmsis_nn_dw_conv_params){
        .input_offset = c.input_offset,
        .output_offset = c.output_offset,
        .ch_mult = p->out_channels / p->in_channels,
        .stride = c.stride,
        .padding = c.padding,
        .dilation = c.dilation,
        .activation = c.activation,
    };
}

/* The library only reads what its structure points to. */
static cmsis_nn_per_channel_quant_params quantisation(const cg_conv2d_s8 *p, int32_t *shifts) {
    for (int o = 0; o < p->out_channels; o++) {
        shifts[o] = p->shift[o];
    }
    return (cmsis_nn_per_channel_quant_params){.multiplier = (int32_t *)(uintptr_t)p->multiplier,
                                               .shift = shifts};
}

/* Shifts, then the library's buffer, aligned like the arena. */
static size_t shifts_size(const cg_conv2d_s8 *p) {
    const size_t size = p->out_channels * sizeof(int32_t);
    return (size + CG_ARENA_ALIGN - 1) / CG_ARENA_ALIGN * CG_ARENA_ALIGN;
}

size_t cg_conv2d_s8__cmsis_nn_scratch(const cg_conv2d_s8 *p) {
    const dims d = dims_of(p, p->out_channels, p->in_channels);
    const cmsis_nn_conv_params c = conv_of(p);
    return shifts_size(p) +
           (size_t)arm_convolve_wrapper_s8_get_buffer_size(&c, &d.input, &d.filter, &d.output);
}

cg_status cg_conv2d_s8__cmsis_nn(const cg_conv2d_s8 *p, const int8_t *input, int8_t *output,
                                 void *scratch) {
    const cg_status status = cg_check_conv2d(p, input, output);
    if (status != CG_OK) {
        return status;
    }
    const dims d = dims_of(p, p->out_channels, p->in_channels);
    const cmsis_nn_conv_params c = conv_of(p);
    const cmsis_nn_per_channel_quant_params q = quantisation(p, scratch);
    const cmsis_nn_context context = {.buf = (uint8_t *)scratch + shifts_size(p), .size = 0};
    return arm_convolve_wrapper_s8(&context, &c, &q, &d.input, input, &d.filter, p->weights,
                                   &d.bias, p->bias, &d.output, output) == ARM_CMSIS_NN_SUCCESS
               ? CG_OK
               : CG_ERR_PARAM;
}

size_t cg_depthwise_conv2d_s8__cmsis_nn_scratch(const cg_depthwise_conv2d_s8 *p) {
    const dims d = dims_of(p, 1, p->out_channels);
    const cmsis_nn_dw_conv_params c = depthwise_of(p);
    return shifts_size(p) + (size_t)arm_depthwise_conv_wrapper_s8_get_buffer_size(
                                &c, &d.input, &d.filter, &d.output);
}

cg_status cg_depthwise_conv2d_s8__cmsis_nn(const cg_depthwise_conv2d_s8 *p, const int8_t *input,
                                           int8_t *output, void *scratch) {
    const cg_status status = cg_check_conv2d(p, input, output);
    if (status != CG_OK) {
        return status;
    }
    const dims d = dims_of(p, 1, p->out_channels);
    const cmsis_nn_dw_conv_params c = depthwise_of(p);
    const cmsis_nn_per_channel_quant_params q = quantisation(p, scratch);
    const cmsis_nn_context context = {.buf = (uint8_t *)scratch + shifts_size(p), .size = 0};
    return arm_depthwise_conv_wrapper_s8(&context, &c, &q, &d.input, input, &d.filter, p->weights,
                                         &d.bias, p->bias, &d.output,
                                         output) == ARM_CMSIS_NN_SUCCESS
               ? CG_OK
               : CG_ERR_PARAM;
}

/* ADD with equal scales s: the inputs get the scale 2 s / 2^20, the sum is brought back to s. The
 * stream's zero point is the int8 minimum where there is a fused ReLU; the sum of two int8 numbers
 * and one zero point is the same for every choice, so 0 is taken for all. */
cg_status cg_residual_add_s8__cmsis_nn(const cg_residual_add_s8 *p, const int8_t *input,
                                       int8_t *output, void *scratch) {
    enum { HALF = 1 << 30, LEFT = 20 };
    (void)scratch;
    if (p == NULL || input == NULL || output == NULL) {
        return CG_ERR_NULL;
    }
    return arm_elementwise_add_s8(output, input, 0, HALF, 0, 0, HALF, 0, LEFT, output, 0, HALF,
                                  2 - LEFT, -128, 127, (int32_t)p->size) == ARM_CMSIS_NN_SUCCESS
               ? CG_OK
               : CG_ERR_PARAM;
}

size_t cg_residual_add_s8__cmsis_nn_scratch(const cg_residual_add_s8 *p) {
    (void)p;
    return 0;
}

#endif
