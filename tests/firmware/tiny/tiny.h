/* A gated network of four units, small enough to write by hand; see tiny.c. */
#ifndef TINY_H
#define TINY_H

#include "cgate.h"

/* int8 NHWC [6,5,2] */
#define TINY_INPUT_SIZE 60
#define TINY_OUTPUT_SIZE 3
#define TINY_ARENA_SIZE 256
#define TINY_UNITS 4
#define TINY_GATES 1

extern const cg_model tiny_model;

#endif
