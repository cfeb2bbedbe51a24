/* A polled serial line, 8N1. One driver is linked; the build gives it CG_UART_BASE. */
#ifndef CG_UART_H
#define CG_UART_H

#include <stdint.h>

/* Clock and pins must be there (cg_chip_open). `clock_hz` feeds the baud rate generator. */
void cg_uart_open(uint32_t clock_hz, uint32_t baud);
uint8_t cg_uart_get(void);
void cg_uart_put(uint8_t byte);

#endif
