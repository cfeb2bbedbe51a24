/*
 * What one Thumb-2 instruction is, and how long it takes on a Cortex-M4 with zero-wait-state memory
 * (Technical Reference Manual r0p1, section 3.3: instruction set summary and load/store timings).
 */
#ifndef CG_TIMING_H
#define CG_TIMING_H

#include <stddef.h>
#include <stdint.h>

/* Kinds of instructions that are counted apart; host_tools/plugin.py has the same list. */
enum {
    CG_ALU,    /* integer arithmetic, logic, moves, shifts, compares */
    CG_MUL,    /* one product, accumulated or not */
    CG_MAC2,   /* two 16-bit products: SMLAD and its like */
    CG_SIMD,   /* the rest of the DSP extension: parallel additions, packing, saturation */
    CG_DIV,    /* SDIV, UDIV */
    CG_LOAD,   /* from memory, any number of registers */
    CG_STORE,  /* to memory */
    CG_BRANCH, /* taken or not */
    CG_FP,     /* coprocessors: floating point and MVE */
    CG_SYSTEM, /* IT, NOP, barriers, special registers */
    CG_CLASSES,
};

typedef enum {
    CG_PLAIN,           /* no effect on what follows */
    CG_DATA,            /* writes registers without reading memory */
    CG_LOAD_ONE,        /* a single load: what follows may overlap it */
    CG_STORE_IMMEDIATE, /* a single store, offset known: one cycle */
    CG_STORE_REGISTER,  /* a single store at register + register */
    CG_TRANSFER,        /* several words, or a table branch: overlaps with nothing */
} cg_pipe;

typedef struct {
    uint8_t class;
    uint8_t cycles;   /* without the refill of a taken conditional branch */
    uint8_t pipe;     /* a cg_pipe */
    uint8_t jumps;    /* always leaves the straight line; the refill is in `cycles` */
    uint8_t may_jump; /* a conditional branch; the refill is not in `cycles` */
    uint8_t it;       /* instructions that this IT makes conditional */
    uint16_t written; /* registers, a bit each; without a base that write-back changes */
    uint16_t address; /* registers that the address is made of */
    uint8_t size;     /* bytes of one memory access that may be unaligned: 2, 4, or 0 */
    uint8_t stack;    /* the address is SP plus a constant */
    /* Modulo 4, for alignment (cg_alignment.h): */
    uint8_t base; /* `size`: register whose value, plus `offset`, the address is; or none */
    uint8_t offset;
    uint8_t to, from; /* `to`, if any, becomes `from` + `by` */
    uint8_t by;
} cg_timing;

enum { CG_SP = 13, CG_PC = 15, CG_NO_REGISTER = 16 };

/* Cycles to refill the pipeline after a jump. The TRM says 1 to 3, by the alignment of what is
 * jumped to and by whether its address was known early. */
enum { CG_REFILL = 2 };

/* `bytes` of an instruction; QEMU may give more than it has. Two little-endian halfwords. */
cg_timing cg_decode(const uint8_t *bytes, size_t size);

/* Cycles of `now` behind `before`, which may be NULL: unknown, or a jump. */
unsigned cg_cycles(const cg_timing *before, const cg_timing *now);

#endif
