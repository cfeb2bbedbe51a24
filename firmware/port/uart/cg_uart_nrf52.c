/* The UART without DMA of nRF51 and nRF52, polled. */
#include "cg_uart.h"

#define TASKS_STARTRX (*(volatile uint32_t *)(CG_UART_BASE + 0x000))
#define TASKS_STARTTX (*(volatile uint32_t *)(CG_UART_BASE + 0x008))
#define EVENTS_RXDRDY (*(volatile uint32_t *)(CG_UART_BASE + 0x108))
#define EVENTS_TXDRDY (*(volatile uint32_t *)(CG_UART_BASE + 0x11c))
#define ENABLE (*(volatile uint32_t *)(CG_UART_BASE + 0x500))
#define RXD (*(volatile uint32_t *)(CG_UART_BASE + 0x518))
#define TXD (*(volatile uint32_t *)(CG_UART_BASE + 0x51c))
#define BAUDRATE (*(volatile uint32_t *)(CG_UART_BASE + 0x524))

enum { ENABLE_UART = 4 };
/* BAUDRATE counts 16 MHz / 2^32, and only its upper 20 bits exist. */
enum { UNIT_HZ = 16000000, ROUND = 1 << 11 };

void cg_uart_open(uint32_t clock_hz, uint32_t baud) {
    (void)clock_hz; /* the peripheral clock is always 16 MHz */
    BAUDRATE = ((uint32_t)(((uint64_t)baud << 32) / UNIT_HZ) + ROUND) & ~UINT32_C(0xfff);
    ENABLE = ENABLE_UART;
    EVENTS_RXDRDY = 0;
    TASKS_STARTRX = 1;
    TASKS_STARTTX = 1;
}

uint8_t cg_uart_get(void) {
    while (EVENTS_RXDRDY == 0) {
    }
    /* Cleared before the byte is taken: the next one may already be behind it. */
    EVENTS_RXDRDY = 0;
    return (uint8_t)RXD;
}

void cg_uart_put(uint8_t byte) {
    EVENTS_TXDRDY = 0;
    TXD = byte;
    while (EVENTS_TXDRDY == 0) {
    }
}
