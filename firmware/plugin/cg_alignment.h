/*
 * Cycles that unaligned accesses take more, found from few addresses: in a straight line of code
 * most addresses are another one plus a constant, and the stack pointer is aligned by definition.
 * So one address, seen when it is used, settles the alignment of many accesses.
 */
#ifndef CG_ALIGNMENT_H
#define CG_ALIGNMENT_H

#include "cg_timing.h"

/* What some accesses of a straight line lose together, by one address modulo 4. */
typedef struct {
    unsigned first; /* the watched address is the group's plus this */
    int watched;
    unsigned lost[4]; /* cycles, by the watched address */
} cg_group;

/* What is known of a register: it holds the group's address plus `offset`, modulo 4. */
typedef struct {
    cg_group *group; /* NULL: nothing yet */
    unsigned offset;
} cg_place;

typedef struct {
    cg_place registers[CG_NO_REGISTER];
    cg_group aligned; /* of addresses that are known without looking */
    cg_group *next;   /* room for more */
} cg_alignment;

/* Begins a straight line; `room` for as many zeroed groups as it has instructions, kept as long as
 * the groups that cg_align returns are used. */
void cg_alignment_open(cg_alignment *a, cg_group *room);

/* Forgets the registers: what follows runs or is counted apart. */
void cg_alignment_cut(cg_alignment *a);

/*
 * Takes the next instruction, `skippable` if an IT may skip it. Returns the group whose `lost`, by
 * this instruction's address modulo 4, is to be counted whenever it accesses memory; or NULL. Adds
 * to `cycles` what it loses without any doubt.
 */
cg_group *cg_align(cg_alignment *a, const cg_timing *now, int skippable, unsigned *cycles);

#endif
