/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Status bits are set by events and cleared by writing ones; the SCI is
 * asserted while (status & enable) is not zero. There is no SMI command port:
 * the machine is always in ACPI mode, SCI_EN reads 1.
 *
 * The timer counts 3.579545 MHz since creation, 32 bits; its status bit is set
 * when bit 31 changes. Whether it has changed is worked out when somebody
 * looks, and a host timer runs only while the guest has enabled the interrupt.
 */
#include "vmm/dev/pm.h"

#include <stdlib.h>

#include "vmm/dev/platform.h"

#define STS_TMR	   (1u << 0)
#define STS_GBL	   (1u << 5)
#define STS_PWRBTN (1u << 8)
#define STS_SLPBTN (1u << 9)
#define STS_RTC	   (1u << 10)
#define STS_WAK	   (1u << 15)
#define STS_ALL                                                                \
	(STS_TMR | STS_GBL | STS_PWRBTN | STS_SLPBTN | STS_RTC | STS_WAK)
#define EN_ALL		 (STS_TMR | STS_GBL | STS_PWRBTN | STS_SLPBTN | STS_RTC)

#define CNT_SCI_EN	 (1u << 0)
#define CNT_BM_RLD	 (1u << 1)
#define CNT_SLP_TYP(v)	 ((v) >> 10 & 7)
#define CNT_SLP_TYP_BITS (7u << 10)
#define CNT_SLP_EN	 (1u << 13)

struct pm {
	struct clock clock;
	struct irq_line sci;
	struct power_sink power;
	uint16_t sts, en, cnt;
	uint64_t epoch_ns;
	uint64_t halves; /* how often bit 31 had changed when last looked */
	struct timer timer;
};

static uint64_t pm_ticks(const struct pm *pm)
{
	return muldiv64(clock_now(&pm->clock) - pm->epoch_ns, PM_TMR_HZ,
			NS_PER_SEC);
}

/* Bring the status and the line up to date. */
static void pm_update(struct pm *pm)
{
	uint64_t halves = pm_ticks(pm) >> 31;

	if (halves != pm->halves) {
		pm->halves = halves;
		pm->sts |= STS_TMR;
	}
	irq_set(&pm->sci, pm->sts & pm->en);
	if (pm->en & STS_TMR) {
		/* One tick later than exact: never early. */
		uint64_t next = ((halves + 1) << 31) + 1;

		clock_arm(&pm->clock, &pm->timer,
			  pm->epoch_ns + muldiv64(next, NS_PER_SEC, PM_TMR_HZ));
	} else {
		clock_disarm(&pm->clock, &pm->timer);
	}
}

static void pm_timer(void *ctx)
{
	pm_update(ctx);
}

void pm_press_power_button(struct pm *pm)
{
	pm->sts |= STS_PWRBTN;
	pm_update(pm);
}

/* The blocks are registers of 16 bits that may be accessed by byte or, for
 * the event block, as one double word. */
static uint64_t evt_read(void *dev, uint64_t off, unsigned len)
{
	struct pm *pm = dev;

	pm_update(pm);
	return (pm->sts | (uint32_t)pm->en << 16) >> (8 * off);
}

static void evt_write(void *dev, uint64_t off, unsigned len, uint64_t val)
{
	struct pm *pm = dev;
	uint32_t mask = (len >= 4 ? ~0u : (1u << (8 * len)) - 1) << (8 * off);
	uint32_t in = (uint32_t)val << (8 * off);

	pm->sts &= ~(in & mask & STS_ALL);
	pm->en = (pm->en & ~(mask >> 16)) | ((in & mask) >> 16 & EN_ALL);
	pm_update(pm);
}

static uint64_t cnt_read(void *dev, uint64_t off, unsigned len)
{
	struct pm *pm = dev;

	return (pm->cnt | CNT_SCI_EN) >> (8 * off);
}

static void cnt_write(void *dev, uint64_t off, unsigned len, uint64_t val)
{
	struct pm *pm = dev;
	uint32_t mask = (len >= 2 ? 0xffffu : 0xffu) << (8 * off);
	uint32_t in = (uint32_t)val << (8 * off) & mask;

	pm->cnt = ((pm->cnt & ~mask) | in) & (CNT_BM_RLD | CNT_SLP_TYP_BITS);
	if ((in & CNT_SLP_EN) && CNT_SLP_TYP(pm->cnt) == PM_SLP_TYP_S5)
		pm->power.request(pm->power.ctx, POWER_OFF, 0);
}

static uint64_t tmr_read(void *dev, uint64_t off, unsigned len)
{
	return (uint32_t)pm_ticks(dev) >> (8 * off);
}

static const struct bus_ops evt_ops = {evt_read, evt_write};
static const struct bus_ops cnt_ops = {cnt_read, cnt_write};
static const struct bus_ops tmr_ops = {tmr_read, NULL};

int pm_attach(struct pm *pm, struct bus *pio)
{
	int err = bus_add(pio, "pm1-event", PORT_PM1A_EVT, 4, &evt_ops, pm);

	if (!err)
		err = bus_add(pio, "pm1-control", PORT_PM1A_CNT, 2, &cnt_ops,
			      pm);
	if (!err)
		err = bus_add(pio, "pm-timer", PORT_PM_TMR, 4, &tmr_ops, pm);
	return err;
}

void pm_reset(struct pm *pm)
{
	pm->halves = pm_ticks(pm) >> 31;
	pm->sts = pm->en = pm->cnt = 0;
	pm_update(pm);
}

struct pm *pm_create(struct clock clock, struct irq_line sci,
		     struct power_sink power)
{
	struct pm *pm = calloc(1, sizeof(*pm));

	if (!pm)
		return NULL;
	pm->clock = clock;
	pm->sci = sci;
	pm->power = power;
	pm->epoch_ns = clock_now(&clock);
	pm->timer.fn = pm_timer;
	pm->timer.ctx = pm;
	return pm;
}

void pm_destroy(struct pm *pm)
{
	if (!pm)
		return;
	clock_disarm(&pm->clock, &pm->timer);
	free(pm);
}
