/*
 * STM32U575 at 160 MHz from the SMPS, TrustZone off as delivered, with USART1; registers from
 * RM0456. The PLL and the UART run from the 16 MHz RC oscillator.
 */
#define CG_GPIO_BASE 0x42020000u
#include "cg_chip.h"
#include "cg_stm32_gpio.h"

#define RCC_CR CG_REG(0x46020c00)
#define RCC_CFGR1 CG_REG(0x46020c1c)
#define RCC_PLL1CFGR CG_REG(0x46020c28)
#define RCC_PLL1DIVR CG_REG(0x46020c34)
#define RCC_AHB2ENR1 CG_REG(0x46020c8c)
#define RCC_AHB3ENR CG_REG(0x46020c94)
#define RCC_APB2ENR CG_REG(0x46020ca4)
#define RCC_CCIPR1 CG_REG(0x46020ce0)
#define PWR_CR3 CG_REG(0x46020808)
#define PWR_VOSR CG_REG(0x4602080c)
#define PWR_SVMSR CG_REG(0x4602083c)
#define FLASH_ACR CG_REG(0x40022000)
#define ICACHE_CR CG_REG(0x40030400)

#define CR_HSI_ON (UINT32_C(1) << 8)
#define CR_HSI_READY (UINT32_C(1) << 10)
#define CR_PLL_ON (UINT32_C(1) << 24)
#define CR_PLL_READY (UINT32_C(1) << 25)
#define CFGR1_SW_HSI UINT32_C(1)
#define CFGR1_SW_PLL UINT32_C(3)
/* From the HSI / 2 = 8 MHz (input range 8 to 16 MHz), output R on; the booster takes the HSI. */
#define PLL1CFGR_HSI_DIV2 (UINT32_C(2) | UINT32_C(3) << 2 | UINT32_C(1) << 8 | UINT32_C(1) << 18)
/* Times 40, / 2: every field is one less than what it means. */
#define PLL1DIVR_40_2 (UINT32_C(39) | UINT32_C(1) << 9 | UINT32_C(1) << 16 | UINT32_C(1) << 24)
#define AHB3_PWR (UINT32_C(1) << 2)
#define APB2_USART1 (UINT32_C(1) << 14)
#define CCIPR1_USART1_HSI UINT32_C(2)
#define PWR_SMPS (UINT32_C(1) << 1)
#define VOSR_BOOST_READY (UINT32_C(1) << 14)
#define VOSR_READY (UINT32_C(1) << 15)
#define VOSR_RANGE1 (UINT32_C(3) << 16)
#define VOSR_BOOST (UINT32_C(1) << 18)
#define ACR_4_WAITS_PREFETCH (UINT32_C(4) | UINT32_C(1) << 8)

enum { HSI_HZ = 16000000 };

static int start_pll(void) {
    PWR_CR3 |= PWR_SMPS;
    if (!cg_chip_wait(&PWR_SVMSR, PWR_SMPS, PWR_SMPS)) {
        return 0;
    }
    PWR_VOSR |= VOSR_RANGE1;
    if (!cg_chip_wait(&PWR_VOSR, VOSR_READY, VOSR_READY)) {
        return 0;
    }
    RCC_PLL1CFGR = PLL1CFGR_HSI_DIV2;
    RCC_PLL1DIVR = PLL1DIVR_40_2;
    /* The booster must run before the core is faster than 55 MHz. */
    PWR_VOSR |= VOSR_BOOST;
    if (!cg_chip_wait(&PWR_VOSR, VOSR_BOOST_READY, VOSR_BOOST_READY)) {
        return 0;
    }
    RCC_CR |= CR_PLL_ON;
    if (!cg_chip_wait(&RCC_CR, CR_PLL_READY, CR_PLL_READY)) {
        return 0;
    }
    FLASH_ACR = ACR_4_WAITS_PREFETCH;
    cg_chip_set(&RCC_CFGR1, 3, CFGR1_SW_PLL);
    return cg_chip_wait(&RCC_CFGR1, UINT32_C(3) << 2, CFGR1_SW_PLL << 2);
}

cg_clocks cg_chip_open(void) {
    RCC_AHB2ENR1 |= CG_GPIO_PORTS;
    RCC_AHB3ENR |= AHB3_PWR;
    RCC_APB2ENR |= APB2_USART1;
    (void)RCC_APB2ENR;
    RCC_CR |= CR_HSI_ON;
    cg_chip_wait(&RCC_CR, CR_HSI_READY, CR_HSI_READY);
    RCC_CCIPR1 |= CCIPR1_USART1_HSI;
    ICACHE_CR |= 1; /* the cache is in front of the flash; the core has none */
    cg_gpio_open();
    if (!start_pll()) {
        cg_chip_set(&RCC_CFGR1, 3, CFGR1_SW_HSI);
        return (cg_clocks){HSI_HZ, HSI_HZ};
    }
    return (cg_clocks){CG_CLOCK_HZ, HSI_HZ};
}

void cg_chip_pulse(int high) {
    cg_gpio_write(CG_PIN_PULSE, high);
}
