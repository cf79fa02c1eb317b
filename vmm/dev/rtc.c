/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The time registers are not stored: they are worked out from the host's clock
 * of day plus `offset` when they are read. While register B's SET is on, they
 * are frozen in `set` and written there; clearing SET turns them into a new
 * offset. A write without SET does all of that at once.
 *
 * The calendar is our own: the C library's reads /etc/localtime the first time,
 * which a confined process may not.
 *
 * Update in progress (UIP) is 1 for the last 244 us of each second, as the data
 * sheet promises; then the new second is there at once.
 *
 * Flags in register C: each is set when its event has happened since C was read
 * (`seen_ns`), whether its interrupt is enabled or not. Nothing ticks for that;
 * it is worked out when C is read, and the host timer runs only for events
 * whose interrupt is enabled.
 */
#include "vmm/dev/rtc.h"

#include <stdlib.h>
#include <string.h>

#include "vmm/dev/platform.h"

enum {
	R_SEC,
	R_SEC_ALARM,
	R_MIN,
	R_MIN_ALARM,
	R_HOUR,
	R_HOUR_ALARM,
	R_WDAY,
	R_MDAY,
	R_MON,
	R_YEAR,
	R_A,
	R_B,
	R_C,
	R_D,
	R_CENTURY = 0x32
};
#define A_UIP	  0x80
#define A_DIV	  0x70
#define A_RATE	  0x0f
#define B_SET	  0x80
#define B_PIE	  0x40
#define B_AIE	  0x20
#define B_UIE	  0x10
#define B_BINARY  0x04
#define B_24H	  0x02
#define C_IRQF	  0x80
#define C_PF	  0x40
#define C_AF	  0x20
#define C_UF	  0x10
#define D_VALID	  0x80
#define HOUR_PM	  0x80
#define ALARM_ANY 0xc0 /* both bits: matches every value */
#define UIP_NS	  244000

/* What the registers show: wday 0 = Sunday, mon 0..11, year AD. While SET
 * is on the guest may have put any number into any of them. */
struct cal {
	int64_t sec, min, hour, wday, mday, mon, year;
};

struct rtc {
	struct clock clock;
	struct irq_line irq;
	uint8_t index;
	uint8_t ram[128];
	int64_t offset_ns; /* guest's time of day - host's */
	struct cal set;	   /* valid while B_SET */
	uint64_t seen_ns;  /* guest's time when C was last brought up to date */
	struct timer timer;
};

static uint64_t rtc_now(const struct rtc *r)
{
	return clock_wall(&r->clock) + r->offset_ns;
}

static bool rtc_setting(const struct rtc *r)
{
	return r->ram[R_B] & B_SET;
}

/* The divider chain runs only with the 32 kHz setting. */
static bool rtc_counting(const struct rtc *r)
{
	return !rtc_setting(r) && (r->ram[R_A] & A_DIV) == 0x20;
}

/* ---- the calendar (Gregorian, proleptic) ---- */

static bool is_leap(int64_t y)
{
	return y % 4 == 0 && (y % 100 != 0 || y % 400 == 0);
}

/* Days from 1 January 1970 to 1 January of year y. */
static int64_t year_start(int64_t y)
{
	y--;
	return y * 365 + y / 4 - y / 100 + y / 400 - 719162;
}

/* Days from 1 January to the first of month m (0..12). */
static int64_t month_start(int64_t m, bool leap)
{
	static const uint16_t start[] = {0,   31,  59,	90,  120, 151, 181,
					 212, 243, 273, 304, 334, 365};

	return start[m] + (leap && m >= 2);
}

static struct cal cal_from_seconds(uint64_t t)
{
	struct cal c = {
		.sec = t % 60, .min = t / 60 % 60, .hour = t / 3600 % 24};
	int64_t day = t / 86400;

	c.wday = (day + 4) % 7;
	c.year = 1970 + day / 366; /* not too late */
	while (year_start(c.year + 1) <= day)
		c.year++;
	day -= year_start(c.year);
	while (month_start(c.mon + 1, is_leap(c.year)) <= day)
		c.mon++;
	c.mday = 1 + day - month_start(c.mon, is_leap(c.year));
	return c;
}

/* Carries what is out of range (minute 75, February 30). */
static int64_t cal_to_seconds(const struct cal *c)
{
	int64_t year = c->year + c->mon / 12, mon = c->mon % 12;
	int64_t day = year_start(year) + month_start(mon, is_leap(year)) +
		      c->mday - 1;

	return day * 86400 + c->hour * 3600 + c->min * 60 + c->sec;
}

static void rtc_get_tm(const struct rtc *r, struct cal *c)
{
	*c = rtc_setting(r) ? r->set
			    : cal_from_seconds(rtc_now(r) / NS_PER_SEC);
}

/* ---- the forms of a number ---- */

static uint8_t rtc_encode(const struct rtc *r, unsigned v)
{
	return r->ram[R_B] & B_BINARY ? v : v / 10 % 10 << 4 | v % 10;
}

static unsigned rtc_decode(const struct rtc *r, uint8_t v)
{
	return r->ram[R_B] & B_BINARY ? v : (v >> 4) * 10 + (v & 15);
}

static uint8_t rtc_encode_hour(const struct rtc *r, unsigned h)
{
	if (r->ram[R_B] & B_24H)
		return rtc_encode(r, h);
	return rtc_encode(r, h % 12 ? h % 12 : 12) | (h >= 12 ? HOUR_PM : 0);
}

static unsigned rtc_decode_hour(const struct rtc *r, uint8_t v)
{
	if (r->ram[R_B] & B_24H)
		return rtc_decode(r, v);
	return rtc_decode(r, v & ~HOUR_PM) % 12 + (v & HOUR_PM ? 12 : 0);
}

/* ---- events: when does each happen next after t (guest ns)? ~0: never ---- */

static uint64_t next_second(uint64_t t)
{
	return (t / NS_PER_SEC + 1) * NS_PER_SEC;
}

static uint64_t rtc_period_ns(const struct rtc *r)
{
	unsigned rate = r->ram[R_A] & A_RATE;

	if (!rate)
		return 0;
	/* Rates 1 and 2 are those of 8 and 9 (256 and 128 Hz). */
	if (rate < 3)
		rate += 7;
	return NS_PER_SEC / (32768 >> (rate - 1));
}

static uint64_t next_period(const struct rtc *r, uint64_t t)
{
	uint64_t p = rtc_period_ns(r);

	return p && rtc_counting(r) ? (t / p + 1) * p : ~0ull;
}

static bool alarm_is(uint8_t reg, unsigned want, unsigned is)
{
	return (reg & ALARM_ANY) == ALARM_ANY || want == is;
}

static uint64_t next_alarm(const struct rtc *r, uint64_t t)
{
	uint8_t hr = r->ram[R_HOUR_ALARM], mr = r->ram[R_MIN_ALARM],
		sr = r->ram[R_SEC_ALARM];
	unsigned h = rtc_decode_hour(r, hr), m = rtc_decode(r, mr),
		 s = rtc_decode(r, sr);
	uint64_t at = t / NS_PER_SEC + 1, end = at + 86400 + 1;

	if (!rtc_counting(r))
		return ~0ull;
	while (at < end) {
		if (!alarm_is(hr, h, at / 3600 % 24))
			at = (at / 3600 + 1) * 3600;
		else if (!alarm_is(mr, m, at / 60 % 60))
			at = (at / 60 + 1) * 60;
		else if (!alarm_is(sr, s, at % 60))
			at++;
		else
			return at * NS_PER_SEC;
	}
	return ~0ull; /* an impossible time, such as 99:99:99 */
}

static uint64_t next_update(const struct rtc *r, uint64_t t)
{
	return rtc_counting(r) ? next_second(t) : ~0ull;
}

/* Bring C and the line up to date, and arm for what is next. */
static void rtc_update(struct rtc *r)
{
	uint64_t now = rtc_now(r), from = r->seen_ns, next = ~0ull, n;
	uint8_t b = r->ram[R_B], *c = &r->ram[R_C];

	if (from > now) /* the time was set back */
		from = now;
	if (next_period(r, from) <= now)
		*c |= C_PF;
	if (next_alarm(r, from) <= now)
		*c |= C_AF;
	if (next_update(r, from) <= now)
		*c |= C_UF;
	r->seen_ns = now;
	*c &= ~C_IRQF;
	if (*c & b & (C_PF | C_AF | C_UF))
		*c |= C_IRQF;
	irq_set(&r->irq, *c & C_IRQF);

	/* A flag that is set waits for its read: no need to wake for it. */
	if ((b & B_PIE) && !(*c & C_PF))
		next = next_period(r, now);
	if ((b & B_AIE) && !(*c & C_AF) && (n = next_alarm(r, now)) < next)
		next = n;
	if ((b & B_UIE) && !(*c & C_UF) && (n = next_update(r, now)) < next)
		next = n;
	if (next == ~0ull)
		clock_disarm(&r->clock, &r->timer);
	else
		clock_arm(&r->clock, &r->timer,
			  clock_now(&r->clock) + (next - now));
}

static void rtc_timer(void *ctx)
{
	rtc_update(ctx);
}

/* ---- registers ---- */

static bool is_time_reg(unsigned i)
{
	return i == R_SEC || i == R_MIN || i == R_HOUR ||
	       (i >= R_WDAY && i <= R_YEAR) || i == R_CENTURY;
}

static uint8_t read_time(const struct rtc *r, unsigned i)
{
	struct cal tm;

	rtc_get_tm(r, &tm);
	switch (i) {
	case R_SEC:
		return rtc_encode(r, tm.sec);
	case R_MIN:
		return rtc_encode(r, tm.min);
	case R_HOUR:
		return rtc_encode_hour(r, tm.hour);
	case R_WDAY:
		return rtc_encode(r, tm.wday + 1);
	case R_MDAY:
		return rtc_encode(r, tm.mday);
	case R_MON:
		return rtc_encode(r, tm.mon + 1);
	case R_YEAR:
		return rtc_encode(r, tm.year % 100);
	}
	return rtc_encode(r, tm.year / 100);
}

static void set_time_field(const struct rtc *r, struct cal *tm, unsigned i,
			   uint8_t val)
{
	unsigned v = rtc_decode(r, val);

	switch (i) {
	case R_SEC:
		tm->sec = v;
		break;
	case R_MIN:
		tm->min = v;
		break;
	case R_HOUR:
		tm->hour = rtc_decode_hour(r, val);
		break;
	case R_WDAY:
		tm->wday = v ? v - 1 : 0;
		break;
	case R_MDAY:
		tm->mday = v;
		break;
	case R_MON:
		tm->mon = v ? v - 1 : 0;
		break;
	case R_YEAR:
		tm->year = tm->year / 100 * 100 + v;
		break;
	case R_CENTURY:
		tm->year = v * 100 + tm->year % 100;
		break;
	}
}

/* The second starts now. A time before 1970 is what the host's is. */
static void rtc_set_tm(struct rtc *r, const struct cal *tm)
{
	int64_t t = cal_to_seconds(tm);

	if (t >= 0 && t < 1ll << 33) /* until 2242: ns fit */
		r->offset_ns = (int64_t)((uint64_t)t * NS_PER_SEC -
					 clock_wall(&r->clock));
	r->seen_ns = rtc_now(r);
}

static void write_time(struct rtc *r, unsigned i, uint8_t val)
{
	struct cal tm;

	if (rtc_setting(r)) {
		set_time_field(r, &r->set, i, val);
		return;
	}
	rtc_get_tm(r, &tm);
	set_time_field(r, &tm, i, val);
	rtc_set_tm(r, &tm);
}

static uint8_t read_a(const struct rtc *r)
{
	bool uip = rtc_counting(r) &&
		   next_second(rtc_now(r)) - rtc_now(r) <= UIP_NS;

	return r->ram[R_A] | (uip ? A_UIP : 0);
}

static uint8_t read_c(struct rtc *r)
{
	uint8_t val;

	rtc_update(r);
	val = r->ram[R_C];
	r->ram[R_C] = 0;
	rtc_update(r);
	return val;
}

static void write_b(struct rtc *r, uint8_t val)
{
	struct cal tm;

	rtc_get_tm(r, &tm);
	if ((val & B_SET) && !rtc_setting(r)) {
		r->set = tm;
		val &= ~B_UIE; /* as the chip does */
	}
	if (!(val & B_SET) && rtc_setting(r)) {
		r->ram[R_B] = val;
		rtc_set_tm(r, &tm);
	}
	r->ram[R_B] = val;
}

static uint8_t rtc_reg_read(struct rtc *r, unsigned i)
{
	if (is_time_reg(i))
		return read_time(r, i);
	if (i == R_A)
		return read_a(r);
	if (i == R_C)
		return read_c(r);
	return r->ram[i];
}

static void rtc_reg_write(struct rtc *r, unsigned i, uint8_t val)
{
	if (i == R_C || i == R_D)
		return;
	/* Flags due under the old setting are set before it changes. */
	rtc_update(r);
	if (is_time_reg(i))
		write_time(r, i, val);
	else if (i == R_A)
		r->ram[R_A] = val & ~A_UIP;
	else if (i == R_B)
		write_b(r, val);
	else
		r->ram[i] = val;
	rtc_update(r);
}

static uint64_t rtc_read(void *dev, uint64_t off, unsigned len)
{
	struct rtc *r = dev;

	return off ? rtc_reg_read(r, r->index) : 0xff;
}

static void rtc_write(void *dev, uint64_t off, unsigned len, uint64_t val)
{
	struct rtc *r = dev;

	if (off)
		rtc_reg_write(r, r->index, val);
	else
		r->index = val & 0x7f; /* bit 7 masks NMI */
}

static const struct bus_ops rtc_ops = {rtc_read, rtc_write};

int rtc_attach(struct rtc *r, struct bus *pio)
{
	return bus_add(pio, "rtc", PORT_RTC, 2, &rtc_ops, r);
}

void rtc_reset(struct rtc *r)
{
	if (rtc_setting(r))
		write_b(r, r->ram[R_B] & ~B_SET);
	r->ram[R_B] &= ~(B_PIE | B_AIE | B_UIE);
	r->ram[R_C] = 0;
	r->seen_ns = rtc_now(r);
	rtc_update(r);
}

struct rtc *rtc_create(struct clock clock, struct irq_line irq)
{
	struct rtc *r = calloc(1, sizeof(*r));

	if (!r)
		return NULL;
	r->clock = clock;
	r->irq = irq;
	r->timer.fn = rtc_timer;
	r->timer.ctx = r;
	r->ram[R_A] = 0x26; /* 32 kHz, 1024 Hz */
	r->ram[R_B] = B_24H;
	r->ram[R_D] = D_VALID;
	rtc_reset(r);
	return r;
}

void rtc_destroy(struct rtc *r)
{
	if (!r)
		return;
	clock_disarm(&r->clock, &r->timer);
	free(r);
}
