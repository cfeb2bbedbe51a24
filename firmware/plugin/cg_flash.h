/*
 * Cycles lost to a flash memory with wait states behind two small caches and a prefetch buffer, as
 * in the accelerators of STM32F4 and L4 (DESIGN.md, "Cycles", states the assumptions).
 */
#ifndef CG_FLASH_H
#define CG_FLASH_H

#include <stdint.h>

enum { CG_FLASH_MAX_LINES = 1024 };

typedef struct {
    uint32_t origin, size;      /* where the core sees it, bytes */
    uint32_t wait_states;       /* cycles of an access beyond the first */
    uint32_t line;              /* bytes of one access and of a cache line */
    uint32_t instruction_lines; /* of the instruction cache; 0: none */
    uint32_t data_lines;        /* of the data cache; 0: none */
    uint32_t prefetch;          /* whether the next line is read while one executes */
} cg_flash;

/* Whether `flash` makes sense and there is memory for its tables; call once, before the others. */
int cg_flash_open(const cg_flash *flash);

/* Empties the caches, so that what an inference takes depends on nothing before it. */
void cg_flash_forget(void);

/* Whether `address` is in the flash. */
int cg_flash_has(uint32_t address);

/* The line of `address`, which is in the flash. */
uint32_t cg_flash_line(uint32_t address);

/* Cycles lost as `line` is executed, which takes `cycles` without wait states. */
uint32_t cg_flash_execute(uint32_t line, uint32_t cycles);

/* Cycles lost as data in `line` is read. */
uint32_t cg_flash_read(uint32_t line);

#endif
