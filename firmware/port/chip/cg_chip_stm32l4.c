/*
 * STM32L4R5 at 120 MHz with LPUART1; registers from RM0432.
 *
 * The PLL and the UART run from the 16 MHz RC oscillator: it is always there, and LPUART1 needs a
 * clock of at most 4096 times the baud rate, which the core's is not at 9600.
 */
#define CG_GPIO_BASE 0x48000000u
#include "cg_chip.h"
#include "cg_stm32_gpio.h"

#define RCC_CR CG_REG(0x40021000)
#define RCC_CFGR CG_REG(0x40021008)
#define RCC_PLLCFGR CG_REG(0x4002100c)
#define RCC_AHB2ENR CG_REG(0x4002104c)
#define RCC_APB1ENR1 CG_REG(0x40021058)
#define RCC_APB1ENR2 CG_REG(0x4002105c)
#define RCC_CCIPR CG_REG(0x40021088)
#define PWR_CR2 CG_REG(0x40007004)
#define PWR_SR2 CG_REG(0x40007014)
#define PWR_CR5 CG_REG(0x40007080)
#define FLASH_ACR CG_REG(0x40022000)

#define CR_HSI_ON (UINT32_C(1) << 8)
#define CR_HSI_READY (UINT32_C(1) << 10)
#define CR_PLL_ON (UINT32_C(1) << 24)
#define CR_PLL_READY (UINT32_C(1) << 25)
#define CFGR_SW_HSI UINT32_C(1)
#define CFGR_SW_PLL UINT32_C(3)
#define CFGR_AHB_DIV2 (UINT32_C(8) << 4)
/* 16 MHz / 2 * 30 / 2 = 120 MHz, to the core only */
#define PLL_120MHZ (UINT32_C(2) | UINT32_C(1) << 4 | UINT32_C(30) << 8 | UINT32_C(1) << 24)
#define APB1_PWR (UINT32_C(1) << 28)
#define APB1_LPUART1 UINT32_C(1)
#define CCIPR_LPUART1_HSI (UINT32_C(2) << 10)
#define PWR_IO2_VALID (UINT32_C(1) << 9)
#define PWR_NO_BOOST (UINT32_C(1) << 8)
#define PWR_SCALING (UINT32_C(1) << 10)
#define ACR_5_WAITS_PREFETCH_CACHES (UINT32_C(5) | UINT32_C(7) << 8)

enum { HSI_HZ = 16000000 };

static int start_pll(void) {
    PWR_CR5 &= ~PWR_NO_BOOST;
    if (!cg_chip_wait(&PWR_SR2, PWR_SCALING, 0)) {
        return 0;
    }
    RCC_PLLCFGR = PLL_120MHZ;
    RCC_CR |= CR_PLL_ON;
    if (!cg_chip_wait(&RCC_CR, CR_PLL_READY, CR_PLL_READY)) {
        return 0;
    }
    FLASH_ACR = ACR_5_WAITS_PREFETCH_CACHES;
    /* Above 80 MHz the step from a slow clock must be taken in two. */
    RCC_CFGR = CFGR_AHB_DIV2 | CFGR_SW_PLL;
    if (!cg_chip_wait(&RCC_CFGR, UINT32_C(3) << 2, CFGR_SW_PLL << 2)) {
        return 0;
    }
    for (volatile int i = 0; i < 60; i++) { /* 1 us at least */
    }
    RCC_CFGR = CFGR_SW_PLL;
    return 1;
}

cg_clocks cg_chip_open(void) {
    RCC_AHB2ENR |= CG_GPIO_PORTS;
    RCC_APB1ENR1 |= APB1_PWR;
    RCC_APB1ENR2 |= APB1_LPUART1;
    (void)RCC_APB1ENR2;
    PWR_CR2 |= PWR_IO2_VALID; /* port G has a supply of its own */
    RCC_CR |= CR_HSI_ON;
    cg_chip_wait(&RCC_CR, CR_HSI_READY, CR_HSI_READY);
    RCC_CCIPR |= CCIPR_LPUART1_HSI;
    cg_gpio_open();
    if (!start_pll()) {
        RCC_CFGR = CFGR_SW_HSI;
        return (cg_clocks){HSI_HZ, HSI_HZ};
    }
    return (cg_clocks){CG_CLOCK_HZ, HSI_HZ};
}

void cg_chip_pulse(int high) {
    cg_gpio_write(CG_PIN_PULSE, high);
}
