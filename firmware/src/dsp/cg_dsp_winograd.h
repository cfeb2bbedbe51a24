/*
 * Winograd's F(4x4, 3x3): 36 products for 16 outputs instead of 144, and exact.
 *
 * With u = x + 128 and a tile d of 6x6 inputs, the outputs are A^T [(G g G^T) * (B^T d B)] A. The
 * usual G has fractions (1/4, 1/6, 1/24). Here its rows are scaled to integers,
 *
 *     G = (1, 0, 0), (1, 1, 1), (1, -1, 1), (1, 2, 4), (1, -2, 4), (0, 0, 1),
 *
 * or 3 in place of the outer 1s (`scale`), which saves operations in the inverse transform, so that
 * output (r, c) comes out times 9 * 2^(k[r] + k[c]), k = 3, 2, 1, 1. All sums are modulo
 * 2^32: they may wrap, and multiplying by 1/9 modulo 2^32 and shifting back gives the exact
 * accumulator as long as 64 times that fits int32, |sum w u| < 2^25. The exporter checks this for
 * every output channel. Transformed weights, at most 49 * 127, and inputs, at most 68 * 255, fit
 * int16.
 *
 * Words hold two channels of four, as everywhere in this folder: a "pair".
 */
#ifndef CG_DSP_WINOGRAD_H
#define CG_DSP_WINOGRAD_H

#include "cg_dsp.h"

#if defined(__ARM_FEATURE_DSP)

enum {
    CG_TILE = 4,                          /* output rows and columns of a tile */
    CG_WINDOW = CG_TILE + 2,              /* input rows and columns of a tile */
    CG_POSITIONS = CG_WINDOW * CG_WINDOW, /* products per tile and pair of channels */
    CG_TILES = 2,                         /* tiles side by side that are multiplied together */
    CG_SPAN = CG_TILES * CG_TILE,         /* output columns of these */
    CG_LANES = 4,                         /* output channels that are multiplied together */
    CG_BLOCK = CG_TILES * CG_LANES,       /* sums per position */
};

/* Vertical: six rows of `row` bytes to T[column][pair][6]. */
void cg_dsp_winograd_rows(const int8_t *in, size_t row, uint32_t *to);

/* Horizontal: T from the first column of two tiles to V[36][pairs][2]. */
void cg_dsp_winograd_columns(const uint32_t *strip, size_t pairs, uint32_t *to);

/* Weights of four output channels, words [4][pairs / 2][9] of four bytes, to U[36][pairs][4]; scale
 * 1. */
void cg_dsp_winograd_weights(const uint32_t *weights, size_t pairs, uint32_t *to);

/* The outputs of one tile, bytes [4][4][4 channels], from the sums [36][8] of which it is the first
 * or, from sums + 4, the second. `p` is NULL where cg_dsp_requant is right for all channels. */
void cg_dsp_winograd_outputs(const uint32_t *sums, const cg_dsp_channel *channels, int scale,
                             const cg_conv2d_s8 *p, uint32_t *tile);

#endif
#endif
