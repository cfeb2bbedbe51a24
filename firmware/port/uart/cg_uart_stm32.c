/*
 * STM32F4 USART1 on PA9 (TX) and PA10 (RX), at the 16 MHz that the chip runs at after reset: this
 * firmware never switches to the PLL.
 */
#include "cg_uart.h"

#define RCC_AHB1ENR (*(volatile uint32_t *)0x40023830)
#define RCC_APB2ENR (*(volatile uint32_t *)0x40023844)
#define GPIOA_MODER (*(volatile uint32_t *)0x40020000)
#define GPIOA_AFRH (*(volatile uint32_t *)0x40020024)
#define SR (*(volatile uint32_t *)(CG_UART_BASE + 0x00))
#define DR (*(volatile uint32_t *)(CG_UART_BASE + 0x04))
#define BRR (*(volatile uint32_t *)(CG_UART_BASE + 0x08))
#define CR1 (*(volatile uint32_t *)(CG_UART_BASE + 0x0c))

enum { GPIOA_ENABLE = 1 << 0, USART1_ENABLE = 1 << 4 };
enum { SR_RX_READY = 1 << 5, SR_TX_EMPTY = 1 << 7 };
enum { CR1_RX = 1 << 2, CR1_TX = 1 << 3, CR1_ENABLE = 1 << 13 };
enum { RESET_CLOCK_HZ = 16000000 };

void cg_uart_open(void) {
    RCC_AHB1ENR |= GPIOA_ENABLE;
    RCC_APB2ENR |= USART1_ENABLE;
    /* Both pins: mode 2 (alternate function), function 7 (USART1). */
    GPIOA_MODER = (GPIOA_MODER & ~(UINT32_C(0xf) << 18)) | UINT32_C(0xa) << 18;
    GPIOA_AFRH = (GPIOA_AFRH & ~(UINT32_C(0xff) << 4)) | UINT32_C(0x77) << 4;
    BRR = (RESET_CLOCK_HZ + 115200 / 2) / 115200;
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
