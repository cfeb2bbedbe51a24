/* Exception handlers that say what happened and where, then end the program. */
#ifndef CG_FAULT_H
#define CG_FAULT_H

#include <stdint.h>

/* Writes `name` and eight hexadecimal digits as text. */
void cg_put_value(const char *name, uint32_t value);

void cg_fault_nmi(void);
void cg_fault_hard(void);
void cg_fault_memory(void);
void cg_fault_bus(void);
void cg_fault_usage(void);
void cg_fault_secure(void);
void cg_fault_other(void);

/* Unexpected too, unless cg_time.c is linked, which has a better one. */
void cg_systick(void);

#endif
