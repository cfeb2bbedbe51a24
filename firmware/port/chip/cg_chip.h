/*
 * What differs from chip to chip before a program can run at full speed and talk: clocks, pins,
 * the UART's clock. One chip file is linked; the build gives it the board's pins as CG_PIN_TX,
 * CG_PIN_RX and CG_PIN_PULSE (32 * port + pin) and the pins' function as CG_PIN_FUNCTION.
 */
#ifndef CG_CHIP_H
#define CG_CHIP_H

#include <stdint.h>

typedef struct {
    uint32_t core_hz; /* of the core and of SysTick */
    uint32_t uart_hz; /* of the UART's baud rate generator */
} cg_clocks;

/* Turns on the clock, the caches, the UART and the pins. Where the clock does not start (or an
 * emulator has none), the chip keeps the one that it has after reset, and the result says so. */
cg_clocks cg_chip_open(void);

/* Drives the pin that marks a power window; high after cg_chip_open. */
void cg_chip_pulse(int high);

#define CG_REG(address) (*(volatile uint32_t *)(address))

/* Tries of a wait loop. What is waited for takes 0.5 ms at most, 32,000 cycles of the fastest clock
 * after reset (64 MHz), and a try takes several. */
#define CG_CHIP_TRIES 100000

/* Whether (reg & mask) == value comes true in time. */
static inline int cg_chip_wait(volatile const uint32_t *reg, uint32_t mask, uint32_t value) {
    for (int i = 0; i < CG_CHIP_TRIES; i++) {
        if ((*reg & mask) == value) {
            return 1;
        }
    }
    return 0;
}

static inline void cg_chip_set(volatile uint32_t *reg, uint32_t mask, uint32_t value) {
    *reg = (*reg & ~mask) | value;
}

#endif
