/* Arm CMSDK APB UART, as on the MPS2 and MPS3 boards. */
#include "cg_uart.h"

#define DATA (*(volatile uint32_t *)(CG_UART_BASE + 0x00))
#define STATE (*(volatile uint32_t *)(CG_UART_BASE + 0x04))
#define CTRL (*(volatile uint32_t *)(CG_UART_BASE + 0x08))
#define BAUDDIV (*(volatile uint32_t *)(CG_UART_BASE + 0x10))

enum { STATE_TX_FULL = 1, STATE_RX_FULL = 2 };
enum { CTRL_TX_ENABLE = 1, CTRL_RX_ENABLE = 2 };

void cg_uart_open(uint32_t clock_hz, uint32_t baud) {
    BAUDDIV = clock_hz / baud;
    CTRL = CTRL_TX_ENABLE | CTRL_RX_ENABLE;
    /* Drops what the receiver may still hold. QEMU looks for new input only when DATA is read. */
    (void)DATA;
}

uint8_t cg_uart_get(void) {
    while ((STATE & STATE_RX_FULL) == 0) {
    }
    return (uint8_t)DATA;
}

void cg_uart_put(uint8_t byte) {
    while ((STATE & STATE_TX_FULL) != 0) {
    }
    DATA = byte;
}
