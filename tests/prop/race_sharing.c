/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writers race the merger through real mappings.
 *
 * Two VMs in this process. Each has a region of addresses where its "guest",
 * two threads, writes with plain stores. Pages get there as in bt: SIGSEGV ->
 * p2m -> mmap of the memfd or the pool; the listener takes them away with
 * mmap(PROT_NONE) and mprotect while the writers run. One thread is the manager
 * and both monitors (the VM's lock makes it the p2m's owner, as the fault
 * handler is when it holds the lock). Its clock runs fast, so that pages are
 * collected and merged all the time.
 *
 * Both threads of a VM, and those of both VMs, go through the same sequence of
 * (page, content): so pages become equal often, and are being overwritten while
 * they merge. Threads of a VM own alternate 64-byte lines of each page. Each
 * thread knows every byte that it wrote; it checks pages on the way, and all of
 * them at the end.
 *
 * RACE_WRITES: 8-byte writes in all (10^8; fewer under sanitizers).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include "mm/control.h"
#include "mm/p2m.h"
#include "mm/p2m_share.h"
#include "mm/sharing/share.h"
#include "tests/prop/prop.h"

#ifdef __SANITIZE_ADDRESS__
#define WRITES 20000000
#else
#define WRITES 100000000
#endif
#define PAGES	256u
#define VMS	2u
#define THREADS 2u /* per VM */
#define LINES	(PAGE_SIZE / 64)
#define WORDS	8u /* of a line */

struct guest {
	pthread_mutex_t lock; /* holder owns the p2m */
	struct p2m *p;
	struct control *ctl;
	struct share_vm *sv;
	uint64_t *at; /* where the guest's memory is */
	struct share_msg inbox[16];
	unsigned n;
	uint64_t faults;
};

struct writer {
	struct guest *g;
	unsigned no;
	uint64_t seed, writes, checks;
	uint64_t bad; /* bytes that were not what was written */
	uint64_t (*model)[LINES / THREADS][WORDS];
	pthread_t thread;
};

static struct guest guest[VMS];
static atomic_uint running;

/* The engine: mappings in a region. */

static void *page_at(struct guest *g, ppn_t p)
{
	return (char *)g->at + (p.n << PAGE_SHIFT);
}

/* Slow at times, so that a page that was compared while it could still be
 * written has the time to be. */
static void on_drop(void *c, ppn_t p)
{
	if (p.n % 4 == 0)
		usleep(1);
	if (mmap(page_at(c, p), PAGE_SIZE, PROT_NONE,
		 MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1,
		 0) == MAP_FAILED)
		abort();
}

static void on_protect(void *c, ppn_t p)
{
	struct guest *g = c;

	/* Not mapped at all stays so: no mapping is readable then either, and
	 * the next access asks. */
	if (mprotect(page_at(g, p), PAGE_SIZE, PROT_NONE))
		abort();
}
static const struct p2m_listener_ops listener = {.drop = on_drop,
						 .protect = on_protect};

static void map_page(struct guest *g, ppn_t p, bool write)
{
	struct p2m_backing b;

	pthread_mutex_lock(&g->lock);
	g->faults++;
	if (write && p2m_make_writable(g->p, p, 1) != 1)
		abort();
	if (p2m_get_backing(g->p, p, 1, &b) || (write && !b.writable))
		abort();
	if (mmap(page_at(g, p), PAGE_SIZE,
		 PROT_READ | (b.writable ? PROT_WRITE : 0),
		 MAP_SHARED | MAP_FIXED, b.fd, b.offset) == MAP_FAILED)
		abort();
	pthread_mutex_unlock(&g->lock);
}

/* Synchronous: the thread is in its own store, and holds no lock. */
static void on_fault(int sig, siginfo_t *si, void *ctx)
{
	bool write = ((ucontext_t *)ctx)->uc_mcontext.gregs[REG_ERR] & 2;
	uint64_t a = (uint64_t)si->si_addr;

	for (unsigned i = 0; i < VMS; i++) {
		uint64_t off = a - (uint64_t)guest[i].at;

		if (off < PAGES * PAGE_SIZE) {
			map_page(&guest[i], (ppn_t){off >> PAGE_SHIFT}, write);
			return;
		}
	}
	abort();
}

/* Writers. */

static uint64_t *line_at(struct writer *w, unsigned page, unsigned k)
{
	unsigned line = k * THREADS + w->no;

	return w->g->at + page * (PAGE_SIZE / 8) + line * WORDS;
}

static void check_page(struct writer *w, unsigned page)
{
	for (unsigned k = 0; k < LINES / THREADS; k++)
		for (unsigned i = 0; i < WORDS; i++) {
			uint64_t *a = &line_at(w, page, k)[i];

			if (__atomic_load_n(a, __ATOMIC_RELAXED) !=
			    w->model[page][k][i])
				w->bad++;
		}
	w->checks++;
}

static void put(struct writer *w, unsigned page, unsigned k, unsigned i,
		uint64_t v)
{
	__atomic_store_n(&line_at(w, page, k)[i], v, __ATOMIC_RELAXED);
	w->model[page][k][i] = v;
	w->writes++;
}

/* Content c of any page; 0 is zero. */
static uint64_t word_of(uint64_t c, unsigned line, unsigned i)
{
	return c ? (c * 0x9e3779b97f4a7c15ull) ^ (line * 64 + i) : 0;
}

static void *write_loop(void *arg)
{
	struct writer *w = arg;
	uint64_t limit = w->writes;
	struct rnd r = {w->seed}, own = {w->seed * 31 + w->no + 7};

	for (w->writes = 0; w->writes < limit;) {
		/* The same for all threads: */
		unsigned page = rnd_below(&r, PAGES);
		uint64_t c = rnd_below(&r, 6);

		for (unsigned k = 0; k < LINES / THREADS; k++)
			for (unsigned i = 0; i < WORDS; i++)
				put(w, page, k, i,
				    word_of(c, k * THREADS + w->no, i));
		/* And of its own: a single word somewhere, and a check. */
		if (!rnd_below(&own, 8))
			put(w, rnd_below(&own, PAGES),
			    rnd_below(&own, LINES / THREADS),
			    rnd_below(&own, WORDS), rnd64(&own));
		if (!rnd_below(&own, 4))
			check_page(w, rnd_below(&own, PAGES));
	}
	for (unsigned n = 0; n < PAGES; n++)
		check_page(w, n);
	running--;
	return NULL;
}

/* The manager and the monitors' message loops, in one thread. */

static int send_down(void *ctx, struct share_vm *sv, const struct share_msg *m)
{
	struct guest *g = share_vm_user(sv);

	if (g->n == 16)
		return -EAGAIN;
	g->inbox[g->n++] = *m;
	return 0;
}
static const struct share_host_ops ops = {send_down};

static void serve(struct guest *g)
{
	struct share_msg out;

	for (unsigned i = 0; i < g->n; i++) {
		pthread_mutex_lock(&g->lock);
		assert_int_equal(
			share_monitor_handle(g->p, &g->inbox[i], &out, false),
			0);
		pthread_mutex_unlock(&g->lock);
		assert_int_equal(
			share_on_msg(g->sv, &out, share_msg_bytes(&out)), 0);
	}
	g->n = 0;
}

static void merge_round(struct share_host *h, uint64_t *now)
{
	*now += 5000000000ull; /* every page has always rested enough */
	share_scan_step(h, SHARE_STEP_PAGES, *now);
	for (unsigned i = 0; i < VMS; i++)
		serve(&guest[i]);
}

static void start_guest(struct guest *g, struct share_group *grp)
{
	struct p2m_config c = {.ram_bytes = PAGES * PAGE_SIZE};
	struct share_vm_config sc = {.ram_bytes = c.ram_bytes, .user = g};
	int fd;

	pthread_mutex_init(&g->lock, NULL);
	assert_int_equal(control_create(c.ram_bytes, 0, "race", &fd, &g->ctl),
			 0);
	close(fd);
	c.memfd = sc.memfd = memfd_create("race", MFD_ALLOW_SEALING);
	c.control = sc.control = g->ctl;
	c.pool_fd = share_group_pool_fd(grp);
	assert_int_equal(share_vm_add(grp, &sc, &g->sv), 0);
	assert_int_equal(p2m_create(&c, &g->p), 0);
	close(c.memfd);
	p2m_set_listener(g->p, &listener, g);
	g->at = mmap(NULL, PAGES * PAGE_SIZE, PROT_NONE,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	assert_ptr_not_equal(g->at, MAP_FAILED);
}

static void start_writer(struct writer *w, unsigned i, uint64_t writes,
			 uint64_t seed)
{
	w->g = &guest[i / THREADS];
	w->no = i % THREADS;
	w->seed = seed;
	w->writes = writes;
	w->model = calloc(PAGES, sizeof(*w->model));
	assert_non_null(w->model);
	running++;
	assert_int_equal(pthread_create(&w->thread, NULL, write_loop, w), 0);
}

static void report(struct share_host *h, struct writer *w)
{
	struct share_stats s;
	uint64_t writes = 0, checks = 0;

	for (unsigned i = 0; i < VMS * THREADS; i++) {
		writes += w[i].writes;
		checks += w[i].checks;
	}
	share_get_stats(h, &s);
	printf("# %llu writes, %llu page checks, %llu faults; merged %llu, "
	       "zero %llu, broken %llu, refused changed %llu differs %llu\n",
	       (unsigned long long)writes, (unsigned long long)checks,
	       (unsigned long long)(guest[0].faults + guest[1].faults),
	       (unsigned long long)s.merged_pages,
	       (unsigned long long)s.zero_merged_pages,
	       (unsigned long long)s.broken_pages,
	       (unsigned long long)s.refused[SHARE_changed],
	       (unsigned long long)s.refused[SHARE_differs]);
	/* It was a race, not two walks. */
	assert_true(s.merged_pages > writes / 100000);
	assert_true(s.broken_pages > 0);
}

/* All bytes once more, by the monitor's road, when all is merged. */
static void check_copy(struct writer *w)
{
	uint64_t page[PAGE_SIZE / 8];

	for (unsigned n = 0; n < PAGES; n++) {
		assert_int_equal(
			p2m_copy_out(w->g->p, n << PAGE_SHIFT, page, PAGE_SIZE),
			0);
		for (unsigned k = 0; k < LINES / THREADS; k++)
			assert_memory_equal(page + (k * THREADS + w->no) *
							    WORDS,
					    w->model[n][k], 64);
	}
}

static void test_race(void **state)
{
	uint64_t writes = prop_env("RACE_WRITES", WRITES), now = 0;
	struct sigaction sa = {.sa_sigaction = on_fault,
			       .sa_flags = SA_SIGINFO | SA_NODEFER};
	struct rnd r = rnd_seeded("race_sharing", 1);
	struct writer w[VMS * THREADS] = {0};
	struct share_group *grp;
	struct share_host *h;

	sigaction(SIGSEGV, &sa, NULL);
	assert_int_equal(share_host_create(&ops, NULL, NULL, &h), 0);
	assert_int_equal(share_group_create(h, "race", 0, &grp), 0);
	for (unsigned i = 0; i < VMS; i++)
		start_guest(&guest[i], grp);
	for (unsigned i = 0; i < VMS * THREADS; i++)
		start_writer(&w[i], i, writes / (VMS * THREADS), r.s);
	while (running)
		merge_round(h, &now);
	for (unsigned i = 0; i < VMS * THREADS; i++) {
		pthread_join(w[i].thread, NULL);
		assert_int_equal(w[i].bad, 0);
	}
	for (unsigned i = 0; i < 50; i++)
		merge_round(h, &now);
	report(h, w);
	for (unsigned i = 0; i < VMS * THREADS; i++)
		check_copy(&w[i]);
	for (unsigned i = 0; i < VMS; i++)
		assert_int_equal(p2m_audit(guest[i].p), 0);
	assert_int_equal(share_audit(h), 0);
	for (unsigned i = 0; i < VMS; i++) {
		p2m_destroy(guest[i].p);
		share_vm_remove(guest[i].sv);
	}
	assert_int_equal(share_audit(h), 0);
	share_host_destroy(h);
	for (unsigned i = 0; i < VMS * THREADS; i++)
		free(w[i].model);
}

int main(void)
{
	const struct CMUnitTest t[] = {cmocka_unit_test(test_race)};

	return cmocka_run_group_tests(t, NULL, NULL);
}
