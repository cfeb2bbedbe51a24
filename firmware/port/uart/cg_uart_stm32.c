/* The USART of STM32F1, F2 and F4. */
#include "cg_uart.h"

#define SR (*(volatile uint32_t *)(CG_UART_BASE + 0x00))
#define DR (*(volatile uint32_t *)(CG_UART_BASE + 0x04))
#define BRR (*(volatile uint32_t *)(CG_UART_BASE + 0x08))
#define CR1 (*(volatile uint32_t *)(CG_UART_BASE + 0x0c))

enum { SR_RX_READY = 1 << 5, SR_TX_EMPTY = 1 << 7 };
enum { CR1_RX = 1 << 2, CR1_TX = 1 << 3, CR1_ENABLE = 1 << 13 };

void cg_uart_open(uint32_t clock_hz, uint32_t baud) {
    BRR = (clock_hz + baud / 2) / baud;
    CR1 = CR1_ENABLE | CR1_TX | CR1_RX;
    /* Drops what the receiver may still hold. QEMU looks for new input only when DR is read. */
    (void)DR;
}

uint8_t cg_uart_get(void) {
    while ((SR & SR_RX_READY) == 0) {
    }
    return (uint8_t)DR;
}

void cg_uart_put(uint8_t byte) {
    while ((SR & SR_TX_EMPTY) == 0) {
    }
    DR = byte;
}
