/* Time and cycles. The core clock must have its final speed. */
#ifndef CG_TIME_H
#define CG_TIME_H

#include <stdint.h>

/* Starts SysTick, which then interrupts once per 2^24 cycles. */
void cg_time_open(uint32_t core_hz);

/* Microseconds since cg_time_open, by SysTick. */
uint64_t cg_time_us(void);

#endif
