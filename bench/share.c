/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What does sharing cost, and how long are its runs?
 *
 * N VMs in this process, without engines: pages with content common to all (an
 * image), to one VM only, and zero. Measured: CPU time of the manager per page
 * while it takes in VMs that have just booted, of the monitors per commit, of
 * everything while the VMs are idle but for some pages that are written all
 * the time; and the lengths of runs of shared pages. Sockets and wake-ups are
 * not in it.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "mm/base/log.h"
#include "mm/control.h"
#include "mm/p2m.h"
#include "mm/p2m_share.h"
#include "mm/sharing/share.h"
#include "tests/prop/prop.h"

#define VMS   8u
#define PAGES 32768u /* 128 MiB each */

struct guest {
	struct p2m *p;
	struct share_vm *sv;
	struct control *ctl;
	struct share_msg inbox[64];
	unsigned n;
};

static struct guest guest[VMS];
static uint64_t collect_ns, commit_ns, commits, collects, messages;

static uint64_t cpu_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return t.tv_sec * 1000000000ull + t.tv_nsec;
}

static int send_down(void *ctx, struct share_vm *sv, const struct share_msg *m)
{
	struct guest *g = share_vm_user(sv);

	if (g->n == 64)
		return -11;
	g->inbox[g->n++] = *m;
	return 0;
}
static const struct share_host_ops ops = {send_down};

static void serve(struct guest *g)
{
	struct share_msg out;

	for (unsigned i = 0; i < g->n; i++) {
		uint64_t t = cpu_ns();

		share_monitor_handle(g->p, &g->inbox[i], &out, false);
		t = cpu_ns() - t;
		messages++;
		if (out.type == SHARE_MSG_ANSWER) {
			commit_ns += t;
			commits += out.n;
		} else {
			collect_ns += t;
			collects += out.collected.taken;
		}
		BUG_ON(share_on_msg(g->sv, &out, share_msg_bytes(&out)));
	}
	g->n = 0;
}

static void start(struct share_group *grp, struct guest *g)
{
	struct p2m_config c = {.ram_bytes = PAGES * PAGE_SIZE};
	struct share_vm_config sc = {.ram_bytes = c.ram_bytes, .user = g};
	int fd;

	BUG_ON(control_create(c.ram_bytes, 0, "bench", &fd, &g->ctl));
	close(fd);
	c.memfd = sc.memfd = memfd_create("bench", MFD_ALLOW_SEALING);
	c.control = sc.control = g->ctl;
	c.pool_fd = share_group_pool_fd(grp);
	BUG_ON(share_vm_add(grp, &sc, &g->sv));
	BUG_ON(p2m_create(&c, &g->p));
	close(c.memfd);
}

/* Half of the image is there in all VMs, at the same places in pieces of
 * random length; a tenth of each VM's is its own; the rest was never used. */
static void boot(unsigned vm)
{
	struct rnd image = {1}, own = {vm + 77};
	struct p2m *p = guest[vm].p;

	for (unsigned n = 0; n < PAGES;) {
		unsigned len = 1 + rnd_below(&image, 64);
		unsigned what = rnd_below(&image, 10);

		for (; len-- && n < PAGES; n++) {
			uint64_t id = 1000 + n;

			if (what >= 6)
				continue;
			if (rnd_below(&own, 6) == 0)
				id = rnd64(&own);
			else if (what == 5)
				id = 0;
			fill_page(p2m_write(p, (ppn_t){n}, 0, PAGE_SIZE), id);
		}
	}
}

/* Rounds of simulated time; hot pages of each VM are written in each. */
static uint64_t run(struct share_host *h, uint64_t *now, unsigned rounds,
		    uint64_t step_ns, unsigned hot)
{
	uint64_t t0 = cpu_ns();

	for (unsigned r = 0; r < rounds; r++) {
		*now += step_ns;
		for (unsigned i = 0; i < VMS; i++)
			for (unsigned k = 0; k < hot; k++)
				*(uint64_t *)p2m_write(guest[i].p,
						       (ppn_t){k * 97}, 0, 8) =
					*now + i;
		share_scan_step(h, SHARE_STEP_PAGES, *now);
		for (unsigned i = 0; i < VMS; i++)
			serve(&guest[i]);
	}
	return cpu_ns() - t0;
}

static uint64_t ideal_runs(const struct p2m *p)
{
	uint64_t runs = 0;

	for (uint64_t n = 0; n < PAGES; n++)
		runs += p2m_get_state(p, (ppn_t){n}) == P2M_SHARED &&
			(!n || p2m_get_state(p, (ppn_t){n - 1}) != P2M_SHARED);
	return runs;
}

static void report_runs(void)
{
	for (unsigned i = 0; i < VMS; i++) {
		uint64_t pages = control_get(&guest[i].ctl->shared_pages);
		uint64_t runs = p2m_runs(guest[i].p);

		printf("VM %u: %lu shared pages in %lu runs (%.1f pages a run; "
		       "%lu runs at best)\n",
		       i, pages, runs, (double)pages / (runs ? runs : 1),
		       ideal_runs(guest[i].p));
	}
}

int main(void)
{
	struct share_params par = {0};
	struct share_host *h;
	struct share_group *g;
	struct share_stats s;
	struct share_oracle o;
	uint64_t now = 1, t;
	double secs = 120;

	BUG_ON(share_host_create(&ops, NULL, &par, &h));
	BUG_ON(share_group_create(h, "bench", 0, &g));
	for (unsigned i = 0; i < VMS; i++)
		start(g, &guest[i]);
	/* They boot one after the other, scanned meanwhile. */
	for (unsigned i = 0; i < VMS; i++) {
		boot(i);
		run(h, &now, 4, 50000000, 0);
	}
	t = now;
	do {
		run(h, &now, 1, 50000000, 0);
		share_get_stats(h, &s);
	} while (s.saved_bytes < 1 ||
		 s.collected_pages != s.scanned_pages + s.skipped_changed ||
		 now - t < 3000000000ull);
	BUG_ON(share_oracle(h, &o));
	printf("at rest: %lu MiB saved of %lu; %lu pages scanned, manager "
	       "%.0f ns each (%.2f M/s)\n",
	       s.saved_bytes >> 20, o.oracle_bytes >> 20, s.scanned_pages,
	       (double)s.cpu_ns / s.scanned_pages,
	       s.scanned_pages * 1e3 / s.cpu_ns);
	printf("monitors: collect %.0f ns a page, commit %.0f ns a page, no "
	       "engine\n",
	       (double)collect_ns / collects, (double)commit_ns / commits);
	printf("index %lu KiB for %lu entries, records %lu KiB\n",
	       s.index_bytes >> 10, s.index_entries, s.host_bytes >> 10);
	report_runs();
	messages = 0;
	collects = 0;
	t = run(h, &now, secs * 20, 50000000, 0);
	printf("idle, nothing written: %.3f%% of a core, %.2f messages/s\n",
	       t / secs / 1e7, messages / secs);
	messages = 0;
	t = run(h, &now, secs * 20, 50000000, 100);
	printf("idle, 100 pages a VM written all the time: %.3f%% of a core, "
	       "%.2f messages/s, %.1f pages protected/s\n",
	       t / secs / 1e7, messages / secs, collects / secs);
	BUG_ON(share_audit(h));
	for (unsigned i = 0; i < VMS; i++)
		BUG_ON(p2m_audit(guest[i].p));
	return 0;
}
