/* A polled serial line, 115200 8N1. One driver is linked; the build gives it CG_UART_BASE. */
#ifndef CG_UART_H
#define CG_UART_H

#include <stdint.h>

void cg_uart_open(void);
uint8_t cg_uart_get(void);
void cg_uart_put(uint8_t byte);

#endif
